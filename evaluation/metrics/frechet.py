"""Fréchet distance between two sets of features, as it is and extrapolated to infinitely many images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor, content_key
from evaluation.metrics.feature_distance import FeatureEvaluator

STATS_BATCH = 1024


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


def reference_stats(extractor: FeatureExtractor, image_u8: Tensor) -> FeatureStats:
    """Moments of a large set of images (N, C, H, W), kept in the extractor's cache under the images' content."""
    extractor(image_u8[:1])  # the key holds the checksum of the weights
    key = content_key(image_u8, f"stats|{extractor.key(*image_u8.shape[-2:])}")
    known = extractor.cache.get(key)
    if known is not None:
        stats = FeatureStats(known.shape[1])
        stats.n, stats.sum, stats.outer = len(image_u8), known[0], known[1:]
        return stats
    stats = FeatureStats(extractor(image_u8[:1]).shape[1])
    for part in image_u8.split(STATS_BATCH):
        stats.update(extractor(part))
    extractor.cache.put(key, torch.cat([stats.sum[None], stats.outer]))
    return stats


def factor(cov: Tensor) -> Tensor:
    """L with L Lᵀ = cov, float64: Cholesky's where it exists, else the symmetric root with eigenvalues below 0 as 0."""
    lower, failed = torch.linalg.cholesky_ex(cov.double())
    return psd_sqrt(cov) if failed or not torch.isfinite(lower).all() else lower


def psd_sqrt(cov: Tensor) -> Tensor:
    """Symmetric square root (D, D) of a covariance, float64; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(cov.double())
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, float64.

    The trace of (A B)^1/2 is taken from the symmetric Lᵀ B L with A = L Lᵀ, whose eigenvalues are those of A B, real
    and non-negative also when the covariances are rank-deficient (fewer images than features); matrix square roots of
    A B are not that safe. A tiny negative result (about -1e-5) means zero and is left as it is.

    Source: Dowson and Landau 1982, eq. 4; Heusel et al. 2017, eq. 6.
    """
    lower = factor(cov_a)
    trace_root = root_sum(lower.T @ cov_b.double() @ lower)
    shift = (mean_a.double() - mean_b.double()).square().sum()
    return float(shift + cov_a.double().trace() + cov_b.double().trace() - 2 * trace_root)


def frechet_of_features(a: Tensor, b: Tensor) -> float:
    """`frechet_distance` of the Gaussians fitted to features (N, D) and (M, D), float64.

    With fewer images than features the eigenvalues are taken of an N x N matrix: with A = Xᵀ X and B = Yᵀ Y, those of
    A B are the squared singular values of X Yᵀ.
    """
    a, b = a.double(), b.double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    x, y = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    if max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(mean_a, x.T @ x, mean_b, y.T @ y)
    cross = x @ y.T  # (N, M)
    trace_root = root_sum(cross @ cross.T)
    return float((mean_a - mean_b).square().sum() + x.square().sum() + y.square().sum() - 2 * trace_root)


def root_sum(symmetric: Tensor) -> Tensor:
    """Sum of the square roots of the eigenvalues of a positive semidefinite matrix."""
    return torch.linalg.eigvalsh((symmetric + symmetric.T) / 2).clamp(min=0).sqrt().sum()


class FrechetDistance(FeatureEvaluator):
    """Fréchet distance of generated images to reference images, beside the floor that real images reach.

    It falls roughly as 1/n at fixed quality, so a value means something only beside its floor and at equal n.

    Args:
        reference: "split", n further real images of the prompts' split, or "train", the moments of all training
            images, as many papers do; the floor then shows what overfitting does to it.
    Source: Heusel et al. 2017, eq. 6.
    """

    def __init__(self, extractor: FeatureExtractor, controls: bool = True, reference: str = "split") -> None:
        super().__init__(extractor, controls)
        if reference not in ("split", "train"):
            raise ValueError(f"reference={reference!r}: split (further images of it) or train (all training images)")
        self.reference = reference
        self.name = extractor.distance_name
        self.headlines = (self.name,)
        self._train: Tensor | None = None
        if reference == "train":
            self.needs = extractor.needs | {"train"}

    def prepare(self, prompts: Any) -> None:
        self._train = prompts.train if self.reference == "train" else None

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        if reference is not None:
            return lambda features: {self.name: frechet_of_features(reference, features)}
        stats = reference_stats(self.extractor, self._train)
        mean, cov = stats.mean(), stats.cov()

        def judge(features: Tensor) -> dict[str, float]:
            own = features.double()
            return {self.name: frechet_distance(mean, cov, own.mean(0), torch.cov(own.T))}

        return judge

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"reference": self.reference}


class FrechetInfinity(FeatureEvaluator):
    """Fréchet distance extrapolated to infinitely many images, by a straight line over 1/n through growing subsets.

    Generated and reference images are taken in equal numbers, so that the bias of both goes away together; what is left
    at real images is the fit's own error. The curve, the fit and its R² are in the details: below 0.98 the line
    does not hold, and neither does the value.

    Source: Chong and Forsyth 2020, section 3 (there with a fixed reference).
    """

    least = 1000
    why = "a straight line over 1/n does not hold for fewer"
    POINTS, SMALLEST = 8, 0.25

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        stem = extractor.distance_name
        self.name = "fid_inf" if stem == "fid" else stem.replace("fd_", "fd_inf_", 1)
        self.headlines = (self.name,)
        self._curves: list[dict[str, Any]] = []

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        n = len(reference)
        shuffle = torch.Generator().manual_seed(0)
        order, others = torch.randperm(n, generator=shuffle), torch.randperm(n, generator=shuffle)
        # Even steps of 1/n: each point weighs the same on the line.
        inverse = torch.linspace(1 / (self.SMALLEST * n), 1 / n, self.POINTS, dtype=torch.float64)
        sizes = (1 / inverse).round().long().clamp(max=n).tolist()
        self._curves = []

        def judge(features: Tensor) -> dict[str, float]:
            values = [frechet_of_features(reference[order[:size]], features[others[:size]]) for size in sizes]
            intercept, slope, r2 = line(1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(values).double())
            self._curves.append({"n": sizes, "value": values, "fit": [intercept, slope], "r2": r2})
            return {self.name: intercept}

        return judge

    def protocol(self) -> dict[str, Any]:
        subsets = f"{self.POINTS} from n/{round(1 / self.SMALLEST)} to n, both sets, seed 0"
        return super().protocol() | {"subsets": subsets}

    def details(self) -> dict[str, Any]:
        """`<name>_curve` of the generated images."""
        return {f"{self.name}_curve": self._curves[0]} if self._curves else {}


def line(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Intercept, slope and R² of the least-squares line through points (N,)."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx @ dy) / (dx @ dx)
    residual = dy - slope * dx
    spread = float(dy @ dy)
    return float(y.mean() - slope * x.mean()), float(slope), 1 - float(residual @ residual) / spread if spread else 1.0


