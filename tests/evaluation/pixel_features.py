"""An extractor without weights, so that a test's features are its own numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluation.extractors.base import FeatureExtractor


class Pixels(FeatureExtractor):
    """The first `dim` bytes of an image, over 255, as features and as logits; `computed` counts images."""

    id = "pixels_raw"
    logits = True

    def __init__(self, dim: int = 16, sha256: str = "none", rule: str = "none") -> None:
        super().__init__()
        self.dim, self.sha256, self.rule, self.computed = dim, sha256, rule, 0

    def _locate(self) -> str:
        return self.sha256

    def _load(self) -> nn.Module:
        return nn.Identity()

    def resize_rule(self, height: int, width: int) -> str:
        return self.rule

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        self.computed += len(image_u8)
        return image_u8.flatten(1)[:, : self.dim].float() / 255

    def _outputs(self, net: nn.Module, image_u8: Tensor) -> dict[str, Tensor]:
        features = self._features(net, image_u8)
        return {"features": features, "logits": features}


def images(n: int, seed: int, low: int = 0, high: int = 256, side: int = 4) -> Tensor:
    """Uniform noise, uint8 (n, 3, side, side)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, side, side), generator=draw, dtype=torch.uint8)


def normal(n: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal features (n, dim)."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fed(evaluator: Any, batch: int = 100, order: list[int] | None = None, **sets: Tensor) -> Any:
    """The evaluator after all images of the sets real, fake, ... in batches."""
    count = len(sets["fake"])
    indices = order or list(range(count))
    for start in range(0, count, batch):
        part = indices[start : start + batch]
        chosen = {name: images_u8[part] for name, images_u8 in sets.items()}
        evaluator.update(chosen.pop("real"), chosen.pop("fake"), None, indices=part, **chosen)
    return evaluator
