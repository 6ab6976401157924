"""Draws a spec as an anti-aliased picture, the same on every machine and the same composition at every resolution."""

from __future__ import annotations

from math import ceil, floor

import numpy as np

from scenes.coverage import FULL, bitmap_coverage, shape_coverage
from scenes.font import ROWS, bitmap
from scenes.grammar import COLOURS, SceneSpec
from scenes.layout import ObjectBox, layout
from scenes.rng import Rng

BACKGROUND = (24, 24, 28)
JITTER = 10  # of each colour channel, per object, in 1/255
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 256


def render(spec: SceneSpec, seed: int, image_size: int) -> tuple[np.ndarray, list[ObjectBox]]:
    """Draw a scene: uint8 (H, W, 3) with H = W = image_size in [32, 256], and the boxes in it (units of the side)."""
    if not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"scenes are drawn at {MIN_IMAGE_SIZE} to {MAX_IMAGE_SIZE} pixels, not {image_size}")
    boxes = layout(spec, seed)
    image = np.empty((image_size, image_size, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    rng = Rng("colour", seed)
    if spec.kind == "word":
        _draw_word(image, spec.word, boxes, _jittered(rng, spec.word_colour))
    else:
        for box in boxes:
            _draw_shape(image, box, _jittered(rng, box.colour))
    return image, boxes


def _jittered(rng: Rng, colour: str) -> np.ndarray:
    return np.array([c + rng.below(2 * JITTER + 1) - JITTER for c in COLOURS[colour]], dtype=np.int64)


def _draw_shape(image: np.ndarray, box: ObjectBox, colour: np.ndarray) -> None:
    n = image.shape[0]
    half = box.width * n / 2
    x, y = box.x * n, box.y * n
    x0, y0 = floor(x - half), floor(y - half)
    w, h = ceil(x + half) - x0, ceil(y + half) - y0
    _blend(image, shape_coverage(box.shape, x, y, 2 * half, x0, y0, w, h), colour, x0, y0)


def _draw_word(image: np.ndarray, word: str, boxes: list[ObjectBox], colour: np.ndarray) -> None:
    n = image.shape[0]
    cell = boxes[0].height * n / ROWS
    left, top = (boxes[0].x - boxes[0].width / 2) * n, (boxes[0].y - boxes[0].height / 2) * n
    cells = bitmap(word)
    x0, y0 = floor(left), floor(top)
    w, h = ceil(left + cells.shape[1] * cell) - x0, ceil(top + ROWS * cell) - y0
    _blend(image, bitmap_coverage(cells, left, top, cell, x0, y0, w, h), colour, x0, y0)


def _blend(image: np.ndarray, coverage: np.ndarray, colour: np.ndarray, x0: int, y0: int) -> None:
    """Lay a colour over the background; boxes never overlap, so what is underneath is always the background."""
    h, w = coverage.shape
    a = coverage[:, :, None]
    base = np.array(BACKGROUND, dtype=np.int64)
    drawn = (base * FULL + a * (colour - base) + FULL // 2) // FULL
    # Neighbouring windows may share a border pixel: only touch pixels that this object covers.
    window = image[y0 : y0 + h, x0 : x0 + w]
    np.copyto(window, drawn.astype(np.uint8), where=a > 0)
