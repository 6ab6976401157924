"""What every evaluator answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Sequence

import torch
from torch import Tensor


class NotComputed(RuntimeError):
    """A number cannot be had here; the message says why and what to do, and the report prints it."""


class Evaluator(ABC):
    """Accumulates batches of real and generated images and turns them into numbers.

    `name` starts every key. `needs` names the entries of `update` beyond real, fake and captions without which nothing can
    be computed (`reference`, `specs`). `unit` and `higher_is_better` say how to read the headline, `headline` its key.
    """

    name: str
    headline: str
    unit: str = ""
    higher_is_better: bool = False
    needs: frozenset[str] = frozenset()

    @abstractmethod
    def update(self, real: Tensor, fake: Tensor, captions: Sequence[str] | None, **extra: Any) -> None:
        """Adds one batch.

        Args:
            real: uint8 (B, C, H, W), the data's own images for these prompts.
            fake: uint8 (B, C, H, W), generated from the same prompts, in the same order.
            captions: B prompts, or None for data without captions.
            extra: what `needs` names; anything else is ignored.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns the numbers of everything seen since `reset`; raises NotComputed with the reason."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything seen."""

    def protocol(self) -> dict[str, Any]:
        """What two numbers must share to be comparable, beyond data and sampling: goes on the evaluation card."""
        return {}

    def details(self) -> dict[str, Any]:
        """Plain tables behind the numbers (intervals, confusions, verdicts per image) for the report."""
        return {}


def check_u8(**images: Tensor) -> None:
    """Refuses anything but uint8 (B, C, H, W): a float batch in a uint8 metric gives silent nonsense.

    Raises:
        ValueError: names the argument, its dtype and its shape.
    """
    for name, image in images.items():
        if image.dtype != torch.uint8 or image.ndim != 4:
            raise ValueError(
                f"{name} must be uint8 (B, C, H, W), got {image.dtype} {tuple(image.shape)}; convert with evaluators.images.to_uint8"
            )
