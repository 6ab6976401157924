"""Grids: every picture in its place, its pixels as they are."""

from __future__ import annotations

import numpy as np
import torch

from evaluation.pictures.captioned_grid import MIN_CELL, captioned_grid, to_pil


def test_pictures_stand_row_by_row_and_upright() -> None:
    image = torch.zeros(5, 3, 64, 64, dtype=torch.uint8)
    for i in range(5):
        image[i, 0] = 40 * (i + 1)
        image[i, 1, :32] = 200  # the upper half
    grid = np.asarray(captioned_grid(image, columns=3))
    cell = MIN_CELL + 4
    assert grid.shape[:2] == (2 * cell + 4, 3 * cell + 4)
    for i in range(5):
        x, y = 4 + (i % 3) * cell, 4 + (i // 3) * cell
        part = grid[y : y + MIN_CELL, x : x + MIN_CELL]
        assert (part[..., 0] == 40 * (i + 1)).all()
        assert (part[:64, :, 1] == 200).all() and (part[64:, :, 1] == 0).all()
    assert (grid[cell + 4 :, 2 * cell + 4 :] == 255).all(), "no sixth picture"


def test_pixels_are_enlarged_and_not_blurred() -> None:
    image = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(2, 2)[None, None]
    grid = np.asarray(captioned_grid(image))
    assert set(np.unique(grid).tolist()) == {0, 255}
    side = MIN_CELL // 4
    assert (grid[4 : 4 + side, 4 : 4 + side] == 0).all() and (grid[4 : 4 + side, 4 + side : 4 + 2 * side] == 255).all()


def test_grey_and_colour_become_rgb() -> None:
    for channels in (1, 3):
        image = torch.randint(0, 256, (channels, 4, 6), dtype=torch.uint8)
        array = np.asarray(to_pil(image))
        assert array.shape == (4, 6, 3) and np.array_equal(array, image.expand(3, -1, -1).permute(1, 2, 0).numpy())
