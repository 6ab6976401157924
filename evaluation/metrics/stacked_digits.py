"""How many of the thousand modes of stacked digits a generator draws, as a classifier of digits reads them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_n, check_u8

DIGITS, STACKED = 10, 3
NUM_MODES = DIGITS**STACKED


def count_modes(modes: Tensor) -> dict[str, float]:
    """`covered`, how many modes are seen at all, and `kl_nats`, KL(histogram of the modes || equal shares).

    Args: modes int64 (N,) in [0, 1000).
    Source: Lin et al. 2018 (PacGAN), section 4; Srivastava et al. 2017 (VEEGAN), section 4
    """
    counts = torch.bincount(modes, minlength=NUM_MODES).double()
    share = counts / len(modes)
    kl = math.log(NUM_MODES) + float(torch.special.xlogy(share, share).sum())
    return {"covered": float((counts > 0).sum()), "kl_nats": max(0.0, kl)}


def expected_by_chance(n: int) -> dict[str, float]:
    """Expected values of `count_modes` for n independent draws of equally frequent modes: no generator does better.

    A mode's count is binomial, and the expectation of a sum over modes is that of one mode, a thousand times.
    """
    count, rate = torch.arange(n + 1, dtype=torch.float64), 1 / NUM_MODES
    ways = math.lgamma(n + 1) - torch.lgamma(count + 1) - torch.lgamma(n - count + 1)
    probability = torch.exp(ways + count * math.log(rate) + (n - count) * math.log1p(-rate))
    kl = NUM_MODES * float((probability * torch.special.xlogy(count / n, count / n * NUM_MODES)).sum())
    return {"covered": NUM_MODES * (1 - (1 - rate) ** n), "kl_nats": kl}


class StackedModes(Evaluator):
    """`modes_covered_stacked` of 1,000 and `modes_kl_stacked_nats`, of images whose three colours are digits.

    A digit that is none counts as the class it resembles: read the numbers beside the pictures. Both depend on n; papers
    draw 26,000. Beside them stand the values of real stacks (`…_real`, what the classifier's errors leave of
    perfection) and what n draws of a perfect generator have on average: `modes_covered_stacked_expected`,
    `modes_kl_stacked_expected_nats`.

    Args:
        classifier: of single grey digits, as `extractor=classifier` gives it.
        controls: False leaves out `…_real`.
    Source: Lin et al. 2018 (PacGAN), section 4; Srivastava et al. 2017 (VEEGAN), section 4
    """

    name = "stacked"
    headlines = ("modes_covered_stacked", "modes_kl_stacked_nats")
    higher_is_better = {"modes_covered_stacked": True, "modes_covered_stacked_expected": True}
    section = "diversity"

    def __init__(self, classifier: FeatureExtractor, controls: bool = True) -> None:
        self.classifier, self.controls = classifier, controls

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        sets = {"fake": batch.fake} | ({"real": batch.real} if self.controls else {})
        check_u8(**sets)
        for name, image in sets.items():
            if image.shape[1] != STACKED:
                raise ValueError(f"{name} images {tuple(image.shape[1:])} are no stacks of {STACKED} digits")
        return {name: self.modes(image) for name, image in sets.items()}

    def modes(self, image_u8: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> int64 (B,), the number that the three digits spell."""
        try:
            probabilities = self.classifier.probabilities(image_u8.flatten(0, 1)[:, None])  # (3B, 10)
        except NotComputed as reason:
            raise NotComputed(f"{reason}; stacked digits need one of data=mnist") from None
        if probabilities.shape[1] != DIGITS:
            raise NotComputed(f"the classifier knows {probabilities.shape[1]} classes: name one of {DIGITS} digits")
        digits = probabilities.argmax(1).view(-1, STACKED)
        return (digits * DIGITS ** torch.arange(STACKED).flip(0)).sum(1)

    def compute(self) -> dict[str, float]:
        n = len(self.rows)
        check_n(self.name, n, NUM_MODES, "with fewer images than modes chance leaves most modes out")
        values: dict[str, float] = {"modes_covered_stacked_n": n, "modes_kl_stacked_nats_n": n}
        for name, suffix in (("fake", ""), ("real", "_real")) if self.controls else (("fake", ""),):
            found = count_modes(self.rows.column(name))
            values[f"modes_covered_stacked{suffix}"] = found["covered"]
            values[f"modes_kl_stacked_nats{suffix}"] = found["kl_nats"]
        perfect = expected_by_chance(n)
        values["modes_covered_stacked_expected"] = perfect["covered"]
        return values | {"modes_kl_stacked_expected_nats": perfect["kl_nats"]}

    def protocol(self) -> dict[str, Any]:
        return self.classifier.describe() | {"modes": NUM_MODES}
