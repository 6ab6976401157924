from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
import time
import warnings

import pytest
import torch

from networks.text import BagOfWords, MiniLM, TextEmbedding
from networks.text.base import BATCH_SIZE, equal_length_batches

WORDS = "a an small large red green blue yellow circle square triangle star above below next to two three".split()


def random_captions(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(n)]


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    return MiniLM()


def test_importing_and_constructing_loads_no_library() -> None:
    code = ("import sys; from networks.text import *; MiniLM(); HuggingFaceText('no/such'); OpenCLIPText('none'); "
            "CachedTextEncoder(MiniLM(), '/no/such/place'); "
            "bad = [m for m in ('transformers', 'open_clip', 'huggingface_hub') if m in sys.modules]; "
            "sys.exit(str(bad) if bad else 0)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_constructing_reads_nothing() -> None:
    start = time.perf_counter()
    encoders = [MiniLM() for _ in range(100)]
    assert time.perf_counter() - start < 0.1  # no weights are read
    assert all(e._loaded is None and e.dim == 384 for e in encoders)


def test_shapes_mask_and_zeros_behind_it(minilm: MiniLM) -> None:
    out = minilm.encode(["a red circle", "", "two large yellow stars above a small green square"])
    assert out.embeds.dtype == out.pooled.dtype == torch.float32 and out.mask.dtype == torch.bool
    assert out.embeds.shape[2] == minilm.dim and out.pooled.shape == (3, minilm.pooled_dim)
    assert out.mask.sum(1).tolist() == minilm.token_counts(["a red circle", "", "two large yellow stars above a small "
                                                            "green square"])
    assert out.mask.shape[1] == out.mask.sum(1).max() and out.mask[:, 0].all()
    assert (out.embeds[~out.mask] == 0).all() and (out.embeds[out.mask].abs().sum(-1) > 0).all()
    assert not (out.mask[:, 1:] & ~out.mask[:, :-1]).any()  # real tokens first, padding behind


def test_no_captions(minilm: MiniLM) -> None:
    out = minilm.encode([])
    assert len(out) == 0 and out.embeds.shape == (0, 1, 384) and out.pooled.shape == (0, 384)


def test_neighbours_change_nothing(minilm: MiniLM) -> None:
    captions = random_captions(70)
    together = minilm.encode(captions)
    for i in (0, 7, 33, 69):
        alone = minilm.encode([captions[i]])
        length = alone.mask.shape[1]
        assert together.mask[i].sum() == length
        torch.testing.assert_close(together.embeds[i, :length], alone.embeds[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.pooled[i], alone.pooled[0], atol=1e-5, rtol=0)


def test_batches_hold_one_length_each_and_every_row_once() -> None:
    lengths = [random.Random(i).randint(1, 3) for i in range(5 * BATCH_SIZE)]
    batches = equal_length_batches(lengths)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(len({lengths[row] for row in rows}) == 1 and len(rows) <= BATCH_SIZE for rows in batches)


def test_result_can_be_trained_through(minilm: MiniLM) -> None:
    layer = torch.nn.Linear(384, 2)
    layer(minilm.encode(["a red circle"]).embeds).sum().backward()  # an inference tensor would raise here
    assert layer.weight.grad.abs().sum() > 0
    assert not minilm.encode(["a red circle"]).embeds.requires_grad


def test_autocast_of_the_caller_changes_nothing(minilm: MiniLM) -> None:
    expected = minilm.encode(["a red circle"]).embeds
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(minilm.encode(["a red circle"]).embeds, expected)


def test_long_captions_warn_once_are_counted_and_keep_their_end_mark() -> None:
    encoder = MiniLM(max_length=6)
    long = ["red " * 10, "blue " * 20]
    with pytest.warns(UserWarning, match=r"12 tokens, .* at most 6: 'red red") as caught:
        out = encoder.encode([*long, "a dog"])
    assert len(caught) == 1 and encoder.truncated == 2
    assert out.mask.sum(1).tolist() == [6, 6, 4]
    ids = encoder._truncate(encoder._tokenize(long)[0])
    assert ids[0] == 101 and ids[-1] == 102  # [CLS] ... [SEP]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(long)
    assert encoder.truncated == 2


def test_check_length(minilm: MiniLM) -> None:
    encoder = MiniLM(max_length=6)
    assert encoder.check_length(["a dog", "a cat"]) == 0
    with pytest.raises(ValueError, match="has 12 tokens") as error:
        encoder.check_length(["a dog", "red " * 10])
    assert "\n" not in str(error.value) and encoder.truncated == 0
    assert encoder.check_length(["a dog", "red " * 10], strict=False) == 1


@pytest.mark.parametrize("captions", ["a bare string", ["a", None], ["a", b"b"]])
def test_wrong_captions_are_refused(captions: object) -> None:
    with pytest.raises(ValueError, match="captions must be"):
        BagOfWords().encode(captions)


def test_broken_unicode_is_encoded(minilm: MiniLM) -> None:
    out = minilm.encode(["a \ud83d dog", "un café noir 狗 🐕", "tab\tnew\nline\0"])
    assert torch.isfinite(out.embeds).all()


def test_copies_leave_the_weights_behind(minilm: MiniLM) -> None:
    minilm.encode(["a"])
    for twin in (copy.deepcopy(minilm), pickle.loads(pickle.dumps(minilm))):
        assert twin._loaded is None and twin.id == minilm.id
    assert minilm._loaded is not None


def test_embedding_moves() -> None:
    out = BagOfWords(8).encode(["a dog"])
    moved = out.to("cpu")
    assert isinstance(moved, TextEmbedding) and torch.equal(moved.embeds, out.embeds)


def test_a_caption_that_just_fits_is_not_too_long() -> None:
    encoder = BagOfWords(8, max_length=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a red circle"])
    assert encoder.truncated == 0 and encoder.check_length(["a red circle"]) == 0
