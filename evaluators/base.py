"""What every evaluator answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class NotComputed(RuntimeError):
    """A number cannot be had here; the message says why and what to do, and the report prints it."""


class Evaluator(ABC):
    """Accumulates batches of real and generated images and turns them into numbers.

    `needs` names the entries of `update` beyond real, fake and captions without which nothing can be computed
    (`reference`, `specs`). `headlines` are the keys of the main numbers, the first one first; `unit` is `%` for shares
    in [0, 1] and empty otherwise.
    """

    name: str
    headlines: tuple[str, ...]
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
        """Returns the numbers of everything seen since `reset`; raises NotComputed with the reason.

        A metric `m` may come with `m_low` and `m_high` (95 % interval), `m_n` (images it applies to), `m_real` (real
        images in place of the generated ones: the best the instrument can show), `m_chance` (images of other prompts).
        """

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything seen."""

    def protocol(self) -> dict[str, Any]:
        """What two numbers must share to be comparable, beyond data and sampling: goes on the evaluation card."""
        return {}

    def details(self) -> dict[str, Any]:
        """Plain tables behind the numbers (intervals, confusions, verdicts per image) for the report."""
        return {}


SUFFIXES = ("low", "high", "n", "real", "chance")


def by_metric(values: dict[str, float]) -> dict[str, dict[str, float]]:
    """Groups what `compute` returns, in order: {"m": 1, "m_low": 0} -> {"m": {"value": 1, "low": 0}}."""
    grouped: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        stem, _, suffix = key.rpartition("_")
        if suffix in SUFFIXES and stem in values:
            grouped.setdefault(stem, {})[suffix] = value
        else:
            grouped.setdefault(key, {})["value"] = value
    return grouped


def check_u8(**images: Tensor) -> None:
    """Refuses anything but uint8 (B, C, H, W): a float batch in a uint8 metric gives silent nonsense.

    Raises:
        ValueError: names the argument, its dtype and its shape.
    """
    for name, image in images.items():
        if image.dtype != torch.uint8 or image.ndim != 4:
            raise ValueError(
                f"{name} must be uint8 (B, C, H, W), got {image.dtype} {tuple(image.shape)}: "
                "convert with evaluators.images.to_uint8"
            )
