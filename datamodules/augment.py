"""Augmentation that does not leak: each transform is written into a vector, which conditions the network.

A network that sees the vector learns to draw transformed images for transformed vectors, and untouched ones at zero.

Source: Karras et al. 2022 (EDM), appendix F.2; Jun et al. 2020 (distribution augmentation)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.keyed import keyed_bits

LABEL_DIM = 9
SCALE_STD = ANISO_STD = 0.2  # in doublings of the size
TRANSLATE_STD = 0.125  # of the image's side
_DRAWS = 16


@dataclass(frozen=True)
class Augmentation:
    """What is done to one image, in this order; at the defaults nothing is.

    Args:
        flip_x, flip_y: mirrored from left to right, from top to bottom.
        scale: of the size, 2^(0.2 scale).
        rotation: radians, counter-clockwise.
        aniso: stretching along the direction `aniso_angle` by 2^(0.2 aniso), and squeezing across it by as much.
        aniso_angle: radians.
        shift_x, shift_y: to the right and down, in eighths of the side.
    """

    flip_x: bool = False
    flip_y: bool = False
    scale: float = 0.0
    rotation: float = 0.0
    aniso: float = 0.0
    aniso_angle: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def label(self) -> list[float]:
        """Nine numbers, all zero where nothing is done. Source: Karras et al. 2022, table 6"""
        return [
            float(self.flip_x), float(self.flip_y), self.scale, math.cos(self.rotation) - 1, math.sin(self.rotation),
            self.aniso * math.cos(self.aniso_angle), self.aniso * math.sin(self.aniso_angle), self.shift_x, self.shift_y,
        ]  # fmt: skip

    def moves(self) -> bool:
        """Whether pixels have to be interpolated."""
        return any((self.scale, self.rotation, self.aniso, self.shift_x, self.shift_y))

    def inverse_matrix(self) -> list[list[float]]:
        """(2, 3): where in the flipped image a pixel of the result comes from; x right, y down, the image is [-1, 1]²."""
        s, c, n = 2 ** (SCALE_STD * self.scale), math.cos(self.rotation), math.sin(self.rotation)
        u, v, a = math.cos(self.aniso_angle), math.sin(self.aniso_angle), 2 ** (ANISO_STD * self.aniso)
        # Stretching by `a` along (u, -v), with y down, and by 1 / a across it; then its inverse, by exchanging the two.
        xx, xy, yy = u * u / a + v * v * a, u * v * (a - 1 / a), v * v / a + u * u * a
        back = ((c / s, -n / s), (n / s, c / s))  # of the rotation, counter-clockwise on the screen, and of the scale
        rows = [[p * xx + q * xy, p * xy + q * yy] for p, q in back]
        shift = (2 * TRANSLATE_STD * self.shift_x, 2 * TRANSLATE_STD * self.shift_y)
        return [[p, q, -(p * shift[0] + q * shift[1])] for p, q in rows]


def draw(seeds: Sequence[int], prob: float) -> list[Augmentation]:
    """One augmentation per seed, a function of the seed alone; each of the six kinds is used with probability `prob`.

    Flips are then a coin, angles uniform, and the rest standard normal.
    """
    unit = (keyed_bits(np.array(seeds, dtype=np.uint64), "augment", _DRAWS) >> np.uint64(11)) * 2.0**-53  # (B, 16)
    return [_one(row, prob) for row in unit.tolist()]


def _one(u: list[float], prob: float) -> Augmentation:
    flip_x, flip_y, scale, rotate, aniso, shift = (float(gate < prob) for gate in u[:6])
    shift_x, shift_y = _normal(u[14], u[15])
    return Augmentation(
        flip_x=bool(flip_x) and u[6] < 0.5,
        flip_y=bool(flip_y) and u[7] < 0.5,
        scale=scale * _normal(u[8], u[9])[0],
        rotation=rotate * math.pi * (2 * u[10] - 1),
        aniso=aniso * _normal(u[12], u[13])[0],
        aniso_angle=aniso * math.pi * (2 * u[11] - 1),
        shift_x=shift * shift_x,
        shift_y=shift * shift_y,
    )


def _normal(u: float, v: float) -> tuple[float, float]:
    """Two standard normal numbers of two uniform ones. Source: Box and Muller 1958"""
    radius, angle = math.sqrt(-2 * math.log1p(-u)), 2 * math.pi * v
    return radius * math.cos(angle), radius * math.sin(angle)


def apply(image: Tensor, augmentations: Sequence[Augmentation]) -> Tensor:
    """Transformed images (B, C, H, W) in [-1, 1]; flips are exact, the rest is interpolated, edges are reflected."""
    out = [x.flip([d for d, on in ((-1, a.flip_x), (-2, a.flip_y)) if on]) for x, a in zip(image, augmentations)]
    result = torch.stack(out)
    moved = [i for i, a in enumerate(augmentations) if a.moves()]
    if not moved:
        return result
    matrix = torch.tensor([augmentations[i].inverse_matrix() for i in moved], dtype=torch.float64)[:, :, None, None, :]
    height, width = image.shape[-2:]
    y, x = (((torch.arange(n, dtype=torch.float64) * 2 + 1) / n - 1) for n in (height, width))  # centres of pixels
    places = matrix[..., 0] * x + matrix[..., 1] * y[:, None] + matrix[..., 2]  # (b, 2, H, W), x before y
    result[moved] = _interpolate(result[moved], *places.unbind(1)).clamp(-1, 1)  # cubics overshoot at edges
    return result


def _interpolate(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Values (b, C, H, W) of images at places (b, H, W), where each image is [-1, 1]² and goes on mirrored outside.

    Exact at the centres of pixels; torch's own bicubic has an error of second order between them, this one of third.
    Source: Keys 1981 (cubic convolution), equation 15
    """
    height, width = image.shape[-2:]
    (rows, row_weights), (columns, column_weights) = _taps(y, height), _taps(x, width)
    flat, total = image.flatten(2), torch.zeros_like(image)
    for i in range(4):
        for j in range(4):
            index = (rows[i] * width + columns[j]).flatten(1)[:, None].expand(-1, image.shape[1], -1)  # (b, C, H * W)
            weight = (row_weights[i] * column_weights[j]).to(image.dtype)[:, None]  # (b, 1, H, W)
            total += weight * flat.gather(2, index).view_as(image)
    return total


def _taps(place: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """The four pixels around places in [-1, 1], reflected at the edges, and their weights."""
    pixel = (place + 1) * (size / 2) - 0.5
    first = pixel.floor()
    f = pixel - first
    index = [(first.long() + k) % (2 * size) for k in (-1, 0, 1, 2)]
    weights = [
        ((-0.5 * f + 1) * f - 0.5) * f, (1.5 * f - 2.5) * f * f + 1, ((-1.5 * f + 2) * f + 0.5) * f, (0.5 * f - 0.5) * f * f,
    ]  # fmt: skip
    return [torch.where(i < size, i, 2 * size - 1 - i) for i in index], weights


def augment(image: Tensor, seeds: Sequence[int], prob: float) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) transformed by their own seeds, and the labels float32 (B, 9); at prob 0 nothing happens."""
    drawn = draw(seeds, prob)
    return apply(image, drawn), torch.tensor([a.label() for a in drawn], dtype=torch.float32).view(-1, LABEL_DIM)


def check_prob(prob: float) -> None:
    """Raises ValueError for a number that is no probability."""
    if isinstance(prob, bool) or not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
        raise ValueError(f"data.augment_prob must lie between 0 and 1, got {prob!r}")
