"""Precision, recall, density and coverage: two answers each to "do images look real?" and "are all kinds there?"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.feature_distance import FeatureEvaluator
from evaluation.metrics.intervals import interval
from evaluation.metrics.nearest_neighbours import Space

K = 5


def prdc(real: Tensor, fake: Tensor, k: int = K) -> dict[str, Tensor]:
    """Per-image answers whose means are precision, recall, density and coverage.

    Args:
        real, fake: features (N, D) and (M, D); balls reach to the k-th neighbour in the own set.
    Returns: `precision` (M,) whether a generated image is in a real ball, `density` (M,) in how many of them over k,
        `recall` (N,) whether a real image is in a generated ball, `coverage` (N,) whether its own ball holds one.
    Source: Kynkäänniemi et al. 2019, eq. 1 and 2; Naeem et al. 2020, eq. 4 to 6.
    """
    space = Space(real=real, fake=fake)
    radii = {name: space.nearest(name, name, k)[0][:, -1] for name in ("real", "fake")}
    covering, own, others = space.inside("fake", "real", radii["fake"], radii["real"])
    return {
        "precision": (covering > 0).double(),
        "recall": (others > 0).double(),
        "density": covering.double() / k,
        "coverage": (own > 0).double(),
    }


class PRDC(FeatureEvaluator):
    """Precision and density (do images look real?), recall and coverage (are all kinds there?), each `…_<extractor>`.

    Around every image of a set lies a ball that reaches to its fifth neighbour in the set. Of real images against real
    ones none of the four is 1 for all: expect density 1, coverage 0.97 and what the `…_real` control shows. Recall is
    flattered by a single outlier with a large ball and sees a missing class late; coverage sees it best. Intervals
    are Wilson's for the shares given the balls, and normal ones for density.

    Source: Kynkäänniemi et al. 2019; Naeem et al. 2020.
    """

    section = "diversity"
    higher_is_better = True
    why = "balls around so few images fill the space"

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        self.name = f"prdc_{extractor.id}"
        self.headlines = tuple(f"{part}_{extractor.id}" for part in ("coverage", "recall", "precision", "density"))

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        def judge(features: Tensor) -> dict[str, float]:
            values: dict[str, float] = {}
            for part, answers in prdc(reference, features).items():
                low, high = interval(answers, share=part != "density")
                key = f"{part}_{self.extractor.id}"
                values |= {key: float(answers.mean()), f"{key}_low": low, f"{key}_high": high}
            return values

        return judge

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"k": K}
