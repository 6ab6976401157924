"""Sliced Wasserstein distance: optimal transport along random directions of the features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.feature_distance import FeatureEvaluator

PROJECTIONS = 512


def sliced_wasserstein2(a: Tensor, b: Tensor, projections: int = PROJECTIONS, seed: int = 0) -> Tensor:
    """Squared 2-Wasserstein distance along each of some random directions, (projections,), float64.

    Args:
        a, b: features (N, D), as many in one as in the other.
        seed: of the directions, which are the same for every set of this dimension.
    Source: Bonneel et al. 2015, section 3.
    """
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], projections, generator=draw, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    ordered = [(features.double() @ directions).sort(0).values for features in (a, b)]
    return (ordered[0] - ordered[1]).square().mean(0)


class SlicedWasserstein(FeatureEvaluator):
    """Mean over 512 fixed random directions of the squared 2-Wasserstein distance along them, `sw2_<extractor>`.

    No Gaussian is assumed and nothing is inverted. Of the distances here it has the largest ratio of a corruption's
    value to that of real images.

    Source: Bonneel et al. 2015, section 3.
    """

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        self.name = f"sw2_{extractor.id}"
        self.headlines = (self.name,)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        return lambda features: {self.name: float(sliced_wasserstein2(reference, features).mean())}

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"directions": f"{PROJECTIONS}, seed 0"}
