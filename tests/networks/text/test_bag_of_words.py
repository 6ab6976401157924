from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from networks.text import BagOfWords


def test_order_is_lost_and_words_are_not() -> None:
    out = BagOfWords(64).encode(["a red circle above a blue square", "a blue square above a red circle",
                                 "A, RED; square-blue circle a above", "a red circle above a green square"])
    assert torch.equal(out.embeds[0], out.embeds[1]) and torch.equal(out.embeds[0], out.embeds[2])
    assert torch.equal(out.pooled[0], out.pooled[1])
    assert not torch.equal(out.embeds[0], out.embeds[3])


def test_one_token_a_word_and_one_for_nothing() -> None:
    encoder = BagOfWords(64)
    assert encoder.token_counts(["red red dog", "", "...", "x_1"]) == [3, 1, 1, 2]
    out = encoder.encode(["red red dog", ""])
    assert out.mask.tolist() == [[True] * 3, [True, False, False]]


def test_different_words_are_nearly_orthogonal() -> None:
    words = [f"word{i}" for i in range(50)]
    out = BagOfWords(1024).encode(words).pooled
    cosine = out @ out.T / 1024
    assert torch.equal(cosine.diagonal(), torch.ones(50))
    assert (cosine - torch.eye(50)).abs().max() < 6 / 1024**0.5


def test_the_same_in_every_process() -> None:
    code = "from networks.text import BagOfWords; print(BagOfWords(16).encode(['a red dog']).embeds.tolist())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={**os.environ, "PYTHONHASHSEED": "1"}).stdout  # this process hashes with another seed
    assert other == f"{BagOfWords(16).encode(['a red dog']).embeds.tolist()}\n"


def test_size_is_checked_and_named() -> None:
    assert BagOfWords(7).encode(["dog"]).embeds.shape == (1, 1, 7) and BagOfWords(7).id != BagOfWords(8).id
    with pytest.raises(ValueError, match="dim"):
        BagOfWords(0)


def test_long_captions_are_cut() -> None:
    encoder = BagOfWords(8, max_length=4)
    with pytest.warns(UserWarning, match="5 tokens"):
        assert encoder.encode(["a b c d e"]).mask.sum() == 4


def test_pooled_is_the_mean_of_the_words_and_nothing_is_no_word() -> None:
    out = BagOfWords(16).encode(["red dog red", "", "a"])
    torch.testing.assert_close(out.pooled[0], out.embeds[0].mean(0))
    assert not torch.equal(out.pooled[1], out.pooled[2])
