"""Kernel distances between two sets of features: unbiased at any count, and beside it what CMMD is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.feature_distance import FeatureEvaluator

CHUNK = 1024
LIMIT = 10_000  # images whose pairs are all looked at; of more, disjoint blocks of so many
Kernel = Callable[[Tensor], Tensor]  # inner products -> values


def polynomial(dim: int) -> Kernel:
    """(x·y / D + 1)³ of inner products, in place. Source: Bińkowski et al. 2018, section 3.1."""
    return lambda inner: inner.div_(dim).add_(1).pow_(3)


def pair_sums(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over each row (N,) and each column (M,) of all pairs, float64, a block at a time."""
    rows, columns = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    for i in range(0, len(x), CHUNK):
        for j in range(0, len(y), CHUNK):
            block = kernel(x[i : i + CHUNK] @ y[j : j + CHUNK].T)
            rows[i : i + CHUNK] += block.sum(1, dtype=torch.float64)
            columns[j : j + CHUNK] += block.sum(0, dtype=torch.float64)
    return rows, columns


def own_sums(x: Tensor, kernel: Kernel) -> Tensor:
    """Sums over each row (N,) of the kernel of a set with itself, without the diagonal; half the blocks suffice."""
    rows = torch.zeros(len(x), dtype=torch.float64)
    for i in range(0, len(x), CHUNK):
        for j in range(i, len(x), CHUNK):
            block = kernel(x[i : i + CHUNK] @ x[j : j + CHUNK].T)
            if i == j:
                block.fill_diagonal_(0)
            else:
                rows[j : j + CHUNK] += block.sum(0, dtype=torch.float64)
            rows[i : i + CHUNK] += block.sum(1, dtype=torch.float64)
    return rows


def mmd2(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy of features (N, D) and (M, D), and its standard error.

    It is negative as often as positive for sets of one distribution. The error is that of the first-order projection:
    every image's own mean over the pairs it is in.

    Source: Gretton et al. 2012, eq. 3 (estimator) and section 5 (its variance).
    """
    n, m = len(x), len(y)
    across, back = pair_sums(x, y, kernel)
    own_x, own_y = own_sums(x, kernel) / (n - 1), own_sums(y, kernel) / (m - 1)
    value = own_x.mean() + own_y.mean() - 2 * across.sum() / (n * m)
    variance = 4 * ((own_x - across / m).var() / n + (own_y - back / n).var() / m)
    return float(value), float(variance.sqrt())


class KernelDistance(FeatureEvaluator):
    """Unbiased squared MMD with a cubic kernel: in Inception features KID, in all others `kd_<extractor>`.

    Features other than Inception's are divided by the root mean square of the reference's, since the cubic kernel only
    orders corruptions rightly when inner products are of the order of D. All pairs count, not random subsets, so there
    is nothing to draw up to 10,000 images; of more, disjoint blocks are averaged, shuffled by a seed of their own.
    Values are as in papers, not times 1,000. A value below 0 is 0 within its interval, and stays.

    Source: Bińkowski et al. 2018 (KID), section 3.
    """

    least = 50
    why = "the interval would be wider than the scale"

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        published = extractor.distance_name == "fid"
        self.normalised = not published
        self.name = "kid" if published else f"kd_{extractor.id}"
        self.headlines = (self.name,)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        dim = reference.shape[1]
        scale = float(reference.double().square().mean().sqrt()) if self.normalised else 1.0
        kernel = polynomial(dim)

        def judge(features: Tensor) -> dict[str, float]:
            blocks = [mmd2(x, y, kernel) for x, y in disjoint(reference / scale, features / scale)]
            value = sum(v for v, _ in blocks) / len(blocks)
            half = 1.96 * sum(e * e for _, e in blocks) ** 0.5 / len(blocks)
            return {self.name: value, f"{self.name}_low": value - half, f"{self.name}_high": value + half}

        return judge

    def protocol(self) -> dict[str, Any]:
        rule = "cubic, features / rms of reference" if self.normalised else "cubic"
        return super().protocol() | {"kernel": rule, "pairs": f"all, in blocks of {LIMIT}"}


def disjoint(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Both sets cut into blocks of at most LIMIT, shuffled with a fixed seed where there is more than one."""
    count = -(-min(len(x), len(y)) // LIMIT)
    if count <= 1:
        return [(x, y)]
    shuffle = torch.Generator().manual_seed(0)
    x, y = x[torch.randperm(len(x), generator=shuffle)], y[torch.randperm(len(y), generator=shuffle)]
    return list(zip(x.tensor_split(count), y.tensor_split(count)))


class CMMD(FeatureEvaluator):
    """1,000 times the biased squared MMD of unit-length features with a Gaussian kernel of width 10.

    Unit vectors are at most 2 apart, so the kernel is nearly a parabola and the value nearly 10 times the squared
    distance of the means in thousands: it sees a shift of the mean and almost nothing else, not even 200 images shown
    ten times. Only in the features of OpenAI's CLIP ViT-L/14 at 336 pixels is it called `cmmd`.

    Source: Jayasumana et al. 2024, section 4 (the estimator of the published code).
    """

    WIDTH, SCALE = 10.0, 1000.0

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        self.name = "cmmd" if extractor.id == "clip_vit_l_14_336_openai" else f"cmmd_{extractor.id}"
        self.headlines = (self.name,)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        unit = torch.nn.functional.normalize(reference.double())

        def judge(features: Tensor) -> dict[str, float]:
            return {self.name: self.SCALE * gaussian_mmd2(unit, torch.nn.functional.normalize(features.double()))}

        return judge


def gaussian_mmd2(x: Tensor, y: Tensor, width: float = CMMD.WIDTH) -> float:
    """Biased squared MMD of unit vectors (N, D) and (M, D) under exp(-|x - y|² / 2 width²)."""

    def kernel(inner: Tensor) -> Tensor:
        return inner.sub_(1).div_(width**2).exp_()  # |x - y|² = 2 - 2 x·y

    within = (float(pair_sums(z, z, kernel)[0].sum()) / len(z) ** 2 for z in (x, y))
    return sum(within) - 2 * float(pair_sums(x, y, kernel)[0].sum()) / (len(x) * len(y))
