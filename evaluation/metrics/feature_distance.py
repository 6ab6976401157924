"""What all distances between sets of image features share: which sets there are, and which controls."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import ImageBatch, Evaluator, check_n, check_u8

MIN_IMAGES = 128


class FeatureEvaluator(Evaluator):
    """Compares generated with reference images in the features of one extractor.

    The reference is a set of real images disjoint from the prompts' own, of the same size. Beside each value stand two
    controls: `…_real`, the prompts' own real images in place of the generated ones, which is what a perfect generator
    would score, and `…_noise`, uniform noise.

    Args:
        extractor: gives the features.
        controls: False leaves both controls out, which halves the work: for a glance during training.
    """

    needs = frozenset({"reference"})
    least = MIN_IMAGES
    why = "with so few, a constant picture can beat real ones"

    def __init__(self, extractor: FeatureExtractor, controls: bool = True) -> None:
        self.extractor, self.controls, self.needs = extractor, controls, self.needs | extractor.needs

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        sets = {"fake": batch.fake, "real": batch.real}
        sets |= {name: batch.extra[name] for name in sorted(self.needs & {"reference"})}
        check_u8(**sets)
        if len({image.shape[1:] for image in sets.values()}) != 1:
            shapes = ", ".join(f"{name} {tuple(image.shape[1:])}" for name, image in sets.items())
            raise ValueError(f"images of one size and channels, got {shapes}: resizing differs, so would the metric")
        if self.controls:
            sets["noise"] = noise_like(batch.fake, batch.indices)
        else:
            del sets["real"]
        return {name: self.features(image) for name, image in sets.items()}

    def features(self, image_u8: Tensor) -> Tensor:
        """What is kept of each image, (B, D)."""
        return self.extractor(image_u8)

    def compute(self) -> dict[str, float]:
        check_n(self.headlines[0], len(self.rows), self.least, self.why)
        judge = self.against(self.rows.column("reference") if "reference" in self.needs else None)
        values = judge(self.rows.column("fake"))
        n = {f"{name}_n": len(self.rows) for name in values if not name.endswith(("_low", "_high"))}
        for control in ("real", "noise") if self.controls else ():
            found = judge(self.rows.column(control))
            values |= {f"{name}_{control}": v for name, v in found.items() if not name.endswith(("_low", "_high"))}
        return values | n

    @abstractmethod
    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        """A function from features (N, D) to numbers, for one reference (N, D)."""

    def protocol(self) -> dict[str, Any]:
        return self.extractor.describe()


def noise_like(image_u8: Tensor, indices: Sequence[int]) -> Tensor:
    """Uniform noise images of the same shape, each drawn from its index alone."""
    draws = (torch.Generator().manual_seed(int(i)) for i in indices)
    drawn = [torch.randint(0, 256, image_u8.shape[1:], generator=draw, dtype=torch.uint8) for draw in draws]
    return torch.stack(drawn).to(image_u8.device) if drawn else image_u8
