"""Fréchet distance between two sets of features, with streaming float64 moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evaluators.base import Evaluator, NotComputed, check_u8
from evaluators.features import FeatureExtractor

MIN_IMAGES = 128


class FeatureStats:
    """Count, sum and sum of outer products of features, in float64: float32 sums lose a tenth of a small variance."""

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.sum = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds features (B, D)."""
        features = features.double().cpu()
        self.n += len(features)
        self.sum += features.sum(0)
        self.outer += features.T @ features

    def merge(self, other: FeatureStats) -> None:
        """Adds the moments of another set, for instance another rank's."""
        self.n, self.sum, self.outer = self.n + other.n, self.sum + other.sum, self.outer + other.outer

    def mean(self) -> Tensor:
        return self.sum / self.n

    def cov(self) -> Tensor:
        """Unbiased covariance (D, D)."""
        mean = self.mean()
        return (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)


def psd_sqrt(cov: Tensor) -> Tensor:
    """Symmetric square root (D, D) of a covariance, float64; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(cov.double())
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(
    mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor, root_a: Tensor | None = None
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, float64.

    The trace of (A B)^1/2 is taken from the symmetric A^1/2 B A^1/2, whose eigenvalues are real and non-negative also
    when the covariances are rank-deficient (fewer images than features); matrix square roots of A B are not that safe.
    A tiny negative result (about -1e-5) means zero and is left as it is. `root_a`, the `psd_sqrt` of cov_a, is the dear
    half of the work and can be given where several sets are compared with one.

    Source: Dowson and Landau 1982, eq. 4; Heusel et al. 2017, eq. 6.
    """
    root = psd_sqrt(cov_a) if root_a is None else root_a
    trace_root = torch.linalg.eigvalsh(root @ cov_b.double() @ root).clamp(min=0).sqrt().sum()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    return float(shift + cov_a.double().trace() + cov_b.double().trace() - 2 * trace_root)


class FrechetDistance(Evaluator):
    """Fréchet distance of generated images to reference images, beside the floor that real images reach.

    The reference is a set of real images disjoint from the prompts' own. The floor (`…_real`) is the distance of the
    prompts' own real images to the same reference, with the same count: what a perfect generator would score. It falls
    roughly as 1/n at fixed quality, so a value means something only beside its floor and at equal n.

    Source: Heusel et al. 2017, eq. 6.
    """

    needs = frozenset({"reference"})

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor = extractor
        self.name = extractor.distance_name
        self.headlines = (self.name,)
        self.reset()

    def reset(self) -> None:
        self._stats: dict[str, FeatureStats] = {}

    def update(self, real: Tensor, fake: Tensor, captions: Sequence[str] | None, **extra: Any) -> None:
        reference = extra["reference"]
        check_u8(real=real, fake=fake, reference=reference)
        if len({image.shape[-2:] for image in (real, fake, reference)}) != 1:
            shapes = [tuple(image.shape[-2:]) for image in (real, fake, reference)]
            raise ValueError(
                f"real, fake and reference must have one size, got {shapes}: resizing differs, so would the metric"
            )
        for name, image in (("real", real), ("fake", fake), ("reference", reference)):
            features = self.extractor(image)
            self._stats.setdefault(name, FeatureStats(features.shape[1])).update(features)

    def compute(self) -> dict[str, float]:
        n = {name: stats.n for name, stats in self._stats.items()}
        if len(set(n.values())) > 1:
            raise NotComputed(f"{self.name} is biased by the count, so every set must have the same: got {n}")
        if n.get("fake", 0) < MIN_IMAGES:
            raise NotComputed(
                f"needs n of at least {MIN_IMAGES}, got {n.get('fake', 0)}: "
                "with so few, a constant picture can beat real ones"
            )
        mean, cov = self._stats["reference"].mean(), self._stats["reference"].cov()
        root = psd_sqrt(cov)
        return {
            key: frechet_distance(mean, cov, stats.mean(), stats.cov(), root)
            for key, stats in ((self.name, self._stats["fake"]), (f"{self.name}_real", self._stats["real"]))
        }

    def protocol(self) -> dict[str, Any]:
        return self.extractor.describe()
