"""Which modes of a known mixture a generator draws, and how many of its points lie in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evaluation.metrics.base import ImageBatch, Evaluator, check_n, check_u8
from evaluation.metrics.feature_distance import noise_like
from evaluation.metrics.intervals import interval

RADIUS = 3.0  # standard deviations from a centre within which a point is a good one
LEAST_SHARE = 0.1  # of the points that each of K equal modes would get: with fewer good ones a mode is not covered
LEAST_PER_MODE = 20  # points a mode, or chance decides which are covered


def mode_of(points: Tensor, centres: Tensor, std: float, radius: float = RADIUS) -> Tensor:
    """The mode that each point is a good one of, int64 (N,), -1 for none: the nearest, if it is within the radius.

    Args:
        points: (N, D).
        centres: (K, D).
        std: of every mode, in each direction.
        radius: in standard deviations; within 3 lie 98.9 % of a mode's points in the plane.
    Source: Metz et al. 2017 (unrolled GANs); Srivastava et al. 2017 (VEEGAN), section 4.1
    """
    distance, nearest = torch.cdist(points.double(), centres.double()).min(1)
    return torch.where(distance <= radius * std, nearest, -1)


def coverage(modes: Tensor, num_modes: int) -> dict[str, float]:
    """`modes_covered`, share of the modes that are drawn, and `modes_quality`, share of points that lie in one.

    A mode is covered when good points fall into it at a tenth of the rate that is its due: with a single point as the
    bar, noise spread over the plane would cover most modes of a small mixture.

    Args: modes (N,) by `mode_of`.
    """
    good = modes[modes >= 0]
    counts = torch.bincount(good, minlength=num_modes)
    covered = counts >= LEAST_SHARE * len(modes) / num_modes
    return {"modes_covered": float(covered.double().mean()), "modes_quality": len(good) / len(modes)}


class ModeCoverage(Evaluator):
    """`modes_covered` and `modes_quality` of points that are images of one pixel; controls are real points and noise.

    Bytes are fine enough while a standard deviation is at least one level, 1 / 127.5.

    Args:
        centres: K lists of D coordinates in [-1, 1], one per channel.
        std: of every mode, in each direction.
        controls: False leaves out `…_real` and `…_noise`.
    Raises: ValueError for a std below a level.
    Source: Metz et al. 2017 (unrolled GANs); Srivastava et al. 2017 (VEEGAN), section 4.1
    """

    name = "modes"
    headlines = ("modes_covered", "modes_quality")
    unit = "%"
    higher_is_better = True
    section = "diversity"

    def __init__(self, centres: Sequence[Sequence[float]], std: float, controls: bool = True) -> None:
        if std < 1 / 127.5:
            raise ValueError(f"modes of std={std} are finer than bytes: give at least {1 / 127.5:.4f}")
        self.centres, self.std, self.controls = torch.tensor(centres, dtype=torch.float64), std, controls

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        sets = {"fake": batch.fake}
        if self.controls:
            sets |= {"real": batch.real, "noise": noise_like(batch.fake, batch.indices)}
        check_u8(**sets)
        dimensions = self.centres.shape[1]
        for name, image in sets.items():
            if image.shape[1:] != (dimensions, 1, 1):
                raise ValueError(f"{name} images {tuple(image.shape[1:])} are no points of {dimensions} coordinates")
        return {name: self.modes(image) for name, image in sets.items()}

    def modes(self, image_u8: Tensor) -> Tensor:
        """uint8 (B, D, 1, 1) -> int64 (B,) by `mode_of`."""
        return mode_of(image_u8.flatten(1).double().cpu() / 127.5 - 1, self.centres, self.std)

    def compute(self) -> dict[str, float]:
        n, k = len(self.rows), len(self.centres)
        check_n(self.name, n, LEAST_PER_MODE * k, f"{LEAST_PER_MODE} points for each of {k} modes")
        fake = self.rows.column("fake")
        values = coverage(fake, k)
        low, high = interval(fake >= 0, share=True)
        values |= {"modes_quality_low": low, "modes_quality_high": high}
        for control in ("real", "noise") if self.controls else ():
            found = coverage(self.rows.column(control), k)
            values |= {f"{name}_{control}": value for name, value in found.items()}
        return values | {"modes_covered_n": n, "modes_quality_n": n}

    def details(self) -> dict[str, Any]:
        """Good points of each mode."""
        fake = self.rows.column("fake")
        return {"good_points": torch.bincount(fake[fake >= 0], minlength=len(self.centres)).tolist()}

    def protocol(self) -> dict[str, Any]:
        facts = {"modes": self.centres.tolist(), "std": self.std}
        return facts | {"radius_std": RADIUS, "least_share": LEAST_SHARE}
