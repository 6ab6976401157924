"""The tokenizer is open_clip's own; a smaller vocabulary loses no caption."""

from __future__ import annotations

import pickle

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from networks.text import bpe
from networks.text.bpe import BYTES, WHOLE, BPETokenizer

CAPTIONS = ["a large red square left of a small blue circle", 'the word "XQZ" in green', "", "Ünïcode 東京 🎈", "a " * 100]


def test_whole_it_is_open_clips() -> None:
    assert torch.equal(BPETokenizer()(CAPTIONS), SimpleTokenizer()(CAPTIONS, context_length=77))


@pytest.mark.parametrize("vocab_size", [BYTES + 2, 1000, 4096])
def test_fewer_tokens_say_the_same(vocab_size: int) -> None:
    small, whole = BPETokenizer(vocab_size, 200), SimpleTokenizer()
    for caption in CAPTIONS[:-1]:
        begin, *inner, end = small.tokens(caption)
        assert (begin, end) == (vocab_size - 2, vocab_size - 1) and all(0 <= token < vocab_size - 2 for token in inner)
        assert whole.decode(inner) == whole.decode(whole.encode(caption))
    assert len(small._tokenizer().bpe_ranks) == vocab_size - BYTES - 2  # one more would have the number of a mark
    lengths = [len(small.tokens(c)) for c in CAPTIONS]
    assert lengths >= [len(BPETokenizer(WHOLE, 200).tokens(c)) for c in CAPTIONS]
    assert vocab_size > 600 or lengths[0] == len(CAPTIONS[0].replace(" ", "")) + 2, "without merges a token is a byte"


def test_long_captions_are_cut_and_end_with_the_mark() -> None:
    tokenizer = BPETokenizer(4096, 8)
    ids = tokenizer(["a red square", "a red square left of a blue circle", ""])
    assert ids.shape == (3, 8) and ids.argmax(1).tolist() == [4, 7, 1]
    assert ids[0, 5:].eq(0).all() and ids[1, 7] == tokenizer.end and ids[1, 0] == tokenizer.end - 1
    assert tokenizer.truncated(["a red square", "a red square left of a blue circle"]) == [False, True]


def test_endless_captions_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "MOST_KNOWN", 10)
    tokenizer = BPETokenizer(600)
    found = [tokenizer.tokens(f"number {i}") for i in range(35)]
    assert len(tokenizer._known) <= 10 and found[3] == tokenizer.tokens("number 3") != found[4]


def test_it_travels_without_its_tables() -> None:
    tokenizer = BPETokenizer(600)
    before = tokenizer(CAPTIONS)
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 1000 and torch.equal(pickle.loads(sent)(CAPTIONS), before)


@pytest.mark.parametrize(("arguments", "line"), [((513,), "vocab_size=513: from 514"), ((WHOLE + 1,), "vocab_size=49409"), ((600, 2), "context_length=2: at least 3")])  # fmt: skip
def test_what_cannot_be_is_refused(arguments: tuple, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        BPETokenizer(*arguments)
