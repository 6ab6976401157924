"""Connected components, against a flood fill."""

from __future__ import annotations

import numpy as np
import pytest

from scenes.labelling import label


def flooded(mask: np.ndarray) -> np.ndarray:
    found, count = np.zeros(mask.shape, dtype=np.int64), 0
    for start in np.argwhere(mask):
        if found[tuple(start)]:
            continue
        count += 1
        waiting = [tuple(start)]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not found[y, x]:
                found[y, x] = count
                waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return found


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_flood_fill(share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < share
    labels, count = label(mask)
    assert np.array_equal(labels, flooded(mask)) and count == labels.max() and labels.dtype == np.int64


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    assert label(np.eye(4, dtype=bool))[1] == 4
    u = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
    assert label(u)[1] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (4, 5)])
def test_empty_and_full_masks(shape: tuple[int, int]) -> None:
    assert label(np.zeros(shape, dtype=bool))[1] == 0
    labels, count = label(np.ones(shape, dtype=bool))
    assert count == 1 and (labels == 1).all()
