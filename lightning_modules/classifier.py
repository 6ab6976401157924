"""A classifier: it draws no images; evaluation uses its features and class scores to judge generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.base import Judge



class Classifier(Judge):
    """P(class | image) by cross-entropy; trained and stored like every family, but it draws no samples.

    Args:
        net: images in [-1, 1] -> class scores, with `features` before its last layer (networks.classifier).
        image_size, channels, num_classes: of the data; kept for those who use the classifier to measure.
        label_smoothing: share of the target spread over all classes.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.
    Source: Szegedy et al. 2016, section 7 (label smoothing)
    """

    refusal = "a classifier draws no images: it judges those of others, as docs/evaluation.md says"

    def __init__(
        self,
        net: nn.Module,
        image_size: int,
        channels: int,
        num_classes: int,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.net, self.image_size, self.channels = net, image_size, channels
        self.num_classes, self.label_smoothing = num_classes, label_smoothing

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy in nats and the share of right answers, from a batch with ``image`` and ``label``."""
        scores = self.net(batch["image"]).float()
        smoothing = self.label_smoothing if self.training else 0.0
        loss = F.cross_entropy(scores, batch["label"], label_smoothing=smoothing)
        accuracy = (scores.argmax(1) == batch["label"]).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> float32 (B, D), what the class scores are linear in.

        Raises: ValueError for images of another size.
        """
        return self.net.features(self._checked(image)).float()

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> float32 class scores (B, num_classes), before the softmax."""
        return self.net(self._checked(image)).float()

    def _checked(self, image: Tensor) -> Tensor:
        trained = (self.channels, self.image_size, self.image_size)
        if tuple(image.shape[1:]) != trained:
            raise ValueError(f"the classifier was trained on images {trained}, got {tuple(image.shape[1:])}")
        return image
