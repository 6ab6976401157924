"""How much of each pixel a shape or a word covers, in exact integers: the same picture on every machine."""

from __future__ import annotations

import numpy as np

SUBROWS = 8  # of a pixel; within a sub-row the covered length is exact
STEPS = 256  # in which a length is counted
FULL = SUBROWS * STEPS  # the coverage of a pixel that is wholly inside


def _half_width(shape: str, v: np.ndarray) -> np.ndarray:
    """Half the width of a shape at height v, both in half sides: v runs from -1 (top) to 1 (bottom)."""
    if shape == "circle":
        return np.sqrt(np.maximum(1 - v * v, 0))
    if shape == "square":
        return np.ones_like(v)
    if shape == "triangle":
        return (v + 1) / 2
    if shape == "diamond":
        return 1 - np.abs(v)
    if shape == "cross":
        return np.where(np.abs(v) <= 1 / 3, 1.0, 1 / 3)
    raise ValueError(f"unknown shape {shape!r}")


def shape_coverage(shape: str, x: float, y: float, side: float, x0: int, y0: int, w: int, h: int) -> np.ndarray:
    """The coverage of the pixels of a window by a shape: int64 (h, w), 0 to FULL.

    Args:
        x, y, side: centre and side of the shape's box, in pixels.
        x0, y0, w, h: the window, in pixels.
    """
    half = side / 2
    v = (y0 - y + (np.arange(h * SUBROWS) + 0.5) / SUBROWS) / half  # (8h,)
    reach = np.where(np.abs(v) <= 1, _half_width(shape, np.clip(v, -1, 1)) * half, -1.0)
    edges = np.arange(w) + float(x0)  # (w,) left sides of the pixels
    left = np.maximum((x - reach)[:, None], edges)  # (8h, w)
    length = np.minimum((x + reach)[:, None], edges + 1) - left
    counted = np.floor(np.maximum(length, 0) * STEPS + 0.5).astype(np.int64)
    return counted.reshape(h, SUBROWS, w).sum(axis=1)


def bitmap_coverage(
    cells: np.ndarray, left: float, top: float, cell: float, x0: int, y0: int, w: int, h: int
) -> np.ndarray:
    """The coverage of the pixels of a window by the set cells of a bitmap: int64 (h, w), 0 to FULL.

    Args:
        cells: int64 (rows, columns) of zeros and ones.
        left, top, cell: the bitmap's corner and the side of its cells, in pixels.
        x0, y0, w, h: the window, in pixels.
    """
    down = _overlap(y0, h, top, cell, cells.shape[0])  # (h, rows)
    across = _overlap(x0, w, left, cell, cells.shape[1])  # (w, columns)
    return (down @ cells @ across.T * FULL + STEPS * STEPS // 2) // (STEPS * STEPS)


def _overlap(start: int, num_pixels: int, origin: float, cell: float, num_cells: int) -> np.ndarray:
    """The length of each cell inside each pixel of a line: int64 (num_pixels, num_cells), 0 to STEPS.

    The lengths are differences of rounded cumulative ones, so adjacent cells leave no seam.
    """
    bounds = origin + cell * np.arange(num_cells + 1)  # (cells + 1,)
    inside = np.clip(bounds[None, :] - (start + np.arange(num_pixels))[:, None], 0, 1)  # (pixels, cells + 1)
    return np.diff(np.floor(inside * STEPS + 0.5).astype(np.int64), axis=1)
