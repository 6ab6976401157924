"""A classifier that this repository trained, as a judge of its own kind of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contracts import Classifies
from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import NotComputed


class ClassifierFeatures(FeatureExtractor):
    """Features and logits of a network trained on data of the same kind, for data far from photographs.

    It was trained on images that may be the reference too: judge by images it has not seen, and say which checkpoint.

    Args:
        load: gives the module (with `features(image)` and `logits(image)` for float images in [-1, 1]), its
            configuration, and facts with the checkpoint's `sha256`; called on first use.
        ckpt: handed to `load`; None means that there is none, and nothing is computed.
        id: names the features, as in `fd_<id>` and `is_<id>`.
        cache_dir: folder that keeps features between runs.
    """

    logits = True

    def __init__(
        self,
        load: Callable[[str], tuple[Any, Any, dict[str, Any]]],
        ckpt: str | None = None,
        id: str = "classifier",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(cache_dir)
        self.id, self._open, self.ckpt = id, load, ckpt
        self._module: Any = None

    def _locate(self) -> str:
        if self.ckpt is None:
            raise NotComputed("no classifier is named: train one (train.py model=classifier), pass classifier.ckpt=RUN")
        try:
            self._module, _, facts = self._open(self.ckpt)
        except (FileNotFoundError, ValueError) as error:
            raise NotComputed(f"the classifier cannot be had: {error}") from None
        if not isinstance(self._module, Classifies):
            raise NotComputed(f"{self.ckpt} is no classifier: it has no features and logits")
        return facts["sha256"]

    def _load(self) -> nn.Module:
        return self._module

    def resize_rule(self, height: int, width: int) -> str:
        return f"none ({height}, {width})"

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        return self._outputs(net, image_u8)["features"]  # (B, D)

    def _outputs(self, net: nn.Module, image_u8: Tensor) -> dict[str, Tensor]:
        module, image = net.net, self._ranged(net.net, image_u8)  # net is the frozen wrapper
        try:
            return {"features": module.features(image), "logits": module.logits(image)}
        except ValueError as error:  # another size than it was trained on
            raise NotComputed(str(error)) from None

    @staticmethod
    def _ranged(module: nn.Module, image_u8: Tensor) -> Tensor:
        if getattr(module, "channels", 3) == 1:
            if not torch.equal(image_u8[:, :1].expand_as(image_u8), image_u8):
                raise NotComputed("the classifier was trained on grey images, and these have colours")
            image_u8 = image_u8[:, :1]
        return image_u8.float() / 127.5 - 1
