"""Inception score: are images sure of their class, and the classes many?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.feature_distance import FeatureEvaluator

SPLITS, SPLIT_IMAGES = 10, 5000


def inception_scores(probabilities: Tensor, splits: int = 1) -> list[float]:
    """exp of the mean KL divergence of an image's classes from their mean, for each of some consecutive parts.

    Args:
        probabilities: (N, K), rows summing to 1.
    Source: Salimans et al. 2016, section 4.
    """
    scores = []
    for part in probabilities.double().tensor_split(splits):
        marginal = part.mean(0, keepdim=True)
        kl = torch.special.xlogy(part, part) - torch.special.xlogy(part, marginal)
        scores.append(float(kl.sum(1).mean().exp()))
    return scores


class InceptionScore(FeatureEvaluator):
    """exp of the mean KL of class probabilities from their mean: 1 at worst, the number of classes at best.

    `inception_score` with Inception's classes, `is_<extractor>` with a classifier's. There is no reference: it does not
    ask whether images look like the data, and one perfect image per class is a perfect score. It rises with n, and
    cannot exceed it; from 50,000 images on it is the mean of ten parts as in papers, with less the parts hold at least
    5,000.

    Source: Salimans et al. 2016, section 4.
    """

    needs = frozenset()
    higher_is_better = True
    section = "quality"

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        super().__init__(extractor, controls)
        self.name = "inception_score" if extractor.distance_name == "fid" else f"is_{extractor.id}"
        self.headlines = (self.name,)
        self.least = 1000 if extractor.distance_name == "fid" else super().least
        self.why = "it cannot exceed the number of images"

    def features(self, image_u8: Tensor) -> Tensor:
        return self.extractor.probabilities(image_u8)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        def judge(probabilities: Tensor) -> dict[str, float]:
            scores = torch.tensor(inception_scores(probabilities, parts(len(probabilities))), dtype=torch.float64)
            values = {self.name: float(scores.mean())}
            if len(scores) > 1:
                half = 1.96 * float(scores.std()) / len(scores) ** 0.5
                values |= {f"{self.name}_low": values[self.name] - half, f"{self.name}_high": values[self.name] + half}
            return values

        return judge

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"parts": parts(len(self.rows))}


def parts(n: int) -> int:
    """Into how many parts n images are split: ten from 50,000 on, fewer so that each has 5,000, at least one."""
    return max(1, min(SPLITS, n // SPLIT_IMAGES))
