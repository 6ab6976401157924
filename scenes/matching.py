"""How well drawn templates explain a soft mask: intersection over union, at the blur that fits best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scenes.coverage import FULL, shape_coverage
from scenes.grammar import SHAPES

# Pixels; without blur-matched templates a slightly soft picture is misread.
BLURS = (0.0, 0.6, 1.0, 1.4)
# The share of its box that a shape fills, and how far its centroid lies below the box's centre, in sides.
FILL = {"circle": np.pi / 4, "square": 1.0, "triangle": 0.5, "diamond": 0.5, "cross": 5 / 9}
DROP = {"triangle": 1 / 6}
PAD = 3


@dataclass(frozen=True)
class ShapeFit:
    """The best shape for a soft mask: its box (centre, side; pixels), its overlap and its lead over the next shape."""

    shape: str
    x: float
    y: float
    side: float
    iou: float
    margin: float


def fit_shape(alpha: np.ndarray) -> ShapeFit:
    """Find the shape that explains a soft mask (H, W) in [0, 1], given its area and centroid."""
    h, w = alpha.shape
    area = alpha.sum()
    cx = float((alpha.sum(axis=0) * (np.arange(w) + 0.5)).sum() / area)
    cy = float((alpha.sum(axis=1) * (np.arange(h) + 0.5)).sum() / area)
    boxes = []
    for shape in SHAPES:
        side = float(np.sqrt(area / FILL[shape]))
        boxes.append((cx, cy - DROP.get(shape, 0.0) * side, side))
    templates = np.stack([shape_coverage(s, *b, -PAD, -PAD, w + 2 * PAD, h + 2 * PAD) for s, b in zip(SHAPES, boxes)])
    ious = soft_iou(np.pad(alpha, PAD), blurred(templates / FULL)).max(axis=0)  # (shapes,)
    order = np.argsort(-ious, kind="stable")
    best = int(order[0])
    return ShapeFit(SHAPES[best], *boxes[best], float(ious[best]), float(ious[best] - ious[order[1]]))


def soft_iou(mask: np.ndarray, templates: np.ndarray) -> np.ndarray:
    """The overlap of a soft mask (H, W) with templates (…, H, W): sum of minima over sum of maxima, in [0, 1]."""
    inside = np.minimum(mask, templates).sum(axis=(-2, -1))
    return inside / np.maximum(mask.sum() + templates.sum(axis=(-2, -1)) - inside, 1e-9)


def blurred(templates: np.ndarray) -> np.ndarray:
    """Templates (n, H, W) at every blur level: (levels, n, H, W)."""
    h, w = templates.shape[-2:]
    return np.stack([blur_matrix(h, s) @ templates @ blur_matrix(w, s).T if s else templates for s in BLURS])


@lru_cache(maxsize=1024)
def blur_matrix(n: int, sigma: float) -> np.ndarray:
    """The Gaussian blur of n pixels as an (n, n) matrix."""
    d = np.arange(n)[:, None] - np.arange(n)[None, :]
    k = np.exp(-0.5 * (d / sigma) ** 2)
    return k / k.sum(axis=1).max()
