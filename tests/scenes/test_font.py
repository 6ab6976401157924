"""The font: letters fill their cells, differ, and stand one cell apart in words."""

from __future__ import annotations

import itertools

import numpy as np

from scenes.font import COLUMNS, GLYPHS, ROWS, bitmap, word_columns
from scenes.vocabulary import LETTERS


def test_every_letter_touches_all_four_sides() -> None:
    assert set(GLYPHS) == set(LETTERS)
    for cells in GLYPHS.values():
        assert cells.shape == (ROWS, COLUMNS) and set(np.unique(cells)) == {0, 1}
        assert cells[0].any() and cells[-1].any() and cells[:, 0].any() and cells[:, -1].any()


def test_letters_differ_in_more_than_one_cell() -> None:
    assert all((a != b).sum() > 1 for a, b in itertools.combinations(GLYPHS.values(), 2))


def test_a_word_is_its_letters_with_a_gap() -> None:
    cells = bitmap("CAT")
    assert cells.shape == (ROWS, word_columns(3)) == (7, 17)
    assert not cells[:, [5, 11]].any()
    assert all(np.array_equal(cells[:, 6 * i : 6 * i + 5], GLYPHS[c]) for i, c in enumerate("CAT"))
