"""Reading a word from a soft mask, without the colours around it."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.coverage import FULL, bitmap_coverage
from scenes.font import bitmap, word_columns
from scenes.reading import read_word


def drawn(word: str, cell: float = 2.3) -> np.ndarray:
    """A word in a mask with a few empty pixels around it, (H, W) in [0, 1]."""
    h, w = round(7 * cell) + 6, round(word_columns(len(word)) * cell) + 6
    return bitmap_coverage(bitmap(word), 2.4, 2.7, cell, 0, 0, w, h) / FULL


@pytest.mark.parametrize("word", ["A", "I", "GO", "CAT", "QUIZ"])
def test_a_drawn_word_is_read(word: str) -> None:
    for alpha in (drawn(word), 0.6 * drawn(word), drawn(word, 1.3)):
        reading = read_word(alpha)
        assert reading.word == word and reading.fit > 0.95


def test_a_letter_that_none_resembles_is_a_question_mark() -> None:
    alpha = drawn("CAT", 3.0)
    left = round(2.4 + 6 * 3)
    alpha[:, left : left + 15] = 0
    alpha[8:11, left + 6 : left + 9] = 1  # a dot in place of the A
    reading = read_word(alpha)
    assert reading.word[0] + reading.word[-1] == "CT" and reading.word[1] == "?" and reading.fit < 0.9


def test_a_letter_too_many_is_seen() -> None:
    assert read_word(drawn("QUIZA")).word == "QUIZA"
