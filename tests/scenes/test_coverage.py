"""Coverage of pixels: areas of shapes, whole pixels, and words without seams."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.coverage import FULL, bitmap_coverage, shape_coverage
from scenes.matching import FILL


@pytest.mark.parametrize("shape", sorted(FILL))
@pytest.mark.parametrize("place", [(20.0, 20.0), (19.37, 21.81)])
def test_a_shape_covers_its_area(shape: str, place: tuple[float, float]) -> None:
    covered = shape_coverage(shape, *place, 24.0, 0, 0, 40, 40)
    assert covered.shape == (40, 40) and covered.dtype == np.int64 and 0 <= covered.min() and covered.max() == FULL
    assert covered.sum() / FULL == pytest.approx(FILL[shape] * 24**2, rel=0.01)


def test_a_square_on_whole_pixels_is_exact() -> None:
    expected = np.zeros((8, 8), dtype=np.int64)
    expected[2:6, 1:5] = FULL
    assert np.array_equal(shape_coverage("square", 3.0, 4.0, 4.0, 0, 0, 8, 8), expected)
    half = shape_coverage("square", 3.5, 4.0, 4.0, 0, 0, 8, 8)
    assert (half[2:6, 1] == FULL // 2).all() and (half[2:6, 5] == FULL // 2).all()


def test_a_window_is_cut_out_of_the_picture() -> None:
    whole = shape_coverage("circle", 9.3, 8.1, 11.0, 0, 0, 20, 20)
    assert np.array_equal(shape_coverage("circle", 9.3, 8.1, 11.0, 4, 6, 9, 7), whole[6:13, 4:13])


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        shape_coverage("star", 4, 4, 4, 0, 0, 8, 8)


@pytest.mark.parametrize("cell", [1.0, 1.37, 2.5])
def test_neighbouring_cells_leave_no_seam(cell: float) -> None:
    cells = np.ones((3, 5), dtype=np.int64)
    covered = bitmap_coverage(cells, 2.3, 1.7, cell, 0, 0, 20, 14)
    bound = covered[3 : int(1.7 + 3 * cell) - 1, 4 : int(2.3 + 5 * cell) - 1]
    assert (bound == FULL).all() and covered.sum() / FULL == pytest.approx(15 * cell**2, rel=0.01)


def test_a_cell_on_whole_pixels_is_exact() -> None:
    covered = bitmap_coverage(np.array([[1, 0], [0, 1]]), 1, 2, 2, 0, 0, 6, 7)
    expected = np.zeros((7, 6), dtype=np.int64)
    expected[2:4, 1:3] = expected[4:6, 3:5] = FULL
    assert np.array_equal(covered, expected)
