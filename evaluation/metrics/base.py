"""What every evaluator answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluation.metrics.rows_per_image import Rows

SECTIONS = ("alignment", "quality", "diversity", "memorisation", "text", "likelihood", "reconstruction")
SUFFIXES = ("low", "high", "n", "real", "chance", "noise", "reconstruction")


class NotComputed(RuntimeError):
    """A number cannot be had here; the message says why and what to do, and the report prints it."""


@dataclass(frozen=True)
class ImageBatch:
    """One batch of images as `Evaluator.update` describes it, every image under its number."""

    real: Tensor
    fake: Tensor
    captions: Sequence[str] | None
    indices: Sequence[int]
    extra: dict[str, Any]


class Evaluator(ABC):
    """Keeps one row per image and turns the rows into numbers.

    Rows lie under the images' indices, so that any split of the images over batches and processes gives the same
    numbers to the last digit.

    Attributes:
        name: what the evaluator is called in messages and where keys of `details` could clash.
        headlines: keys of the main numbers, the first one first.
        unit: `%` for shares in [0, 1], else empty: other units are in the metric's name (`_db`, `_nats`, `_bpd`).
        higher_is_better: one answer, or one per metric; what is missing there is False.
        needs: what must be there beyond real and fake images, by the names of `update` and of `PromptSet`:
            reference, specs, captions, labels, reconstruction, likelihood, and train, holdout for `prepare`.
        section: the part of the report, one of SECTIONS.
    """

    name: str
    headlines: tuple[str, ...]
    unit: str = ""
    higher_is_better: bool | dict[str, bool] = False
    needs: frozenset[str] = frozenset()
    section: str = "quality"

    @property
    def rows(self) -> Rows:
        """What has been seen so far, one row per image."""
        return self.__dict__.setdefault("_rows", Rows())

    @rows.setter
    def rows(self, rows: Rows) -> None:
        self.__dict__["_rows"] = rows

    def prepare(self, prompts: Any) -> None:
        """Called once before the updates with the PromptSet, for what is no image of a batch: train, holdout."""

    def update(
        self,
        real: Tensor,
        fake: Tensor,
        captions: Sequence[str] | None,
        *,
        indices: Sequence[int] | None = None,
        **extra: Any,
    ) -> None:
        """Adds one batch.

        Args:
            real: uint8 (B, C, H, W), the data's own images for these prompts.
            fake: uint8 (B, C, H, W), generated from the same prompts, in the same order.
            captions: B prompts, or None for data without captions.
            indices: the B numbers of these images in the whole set; None numbers them on.
            extra: what `needs` names, for this batch: `reference` and `reconstruction` uint8 (B, C, H, W), `specs` and
                `labels` lists of B, `likelihood` a dict of columns of B values in nats. Anything else is ignored.
        """
        indices = self.rows.next(len(fake)) if indices is None else indices
        self.rows.add(indices, **self.columns(ImageBatch(real, fake, captions, indices, extra)))

    @abstractmethod
    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        """What is kept of a batch: per name a tensor (B, ...) or a list of B values."""

    def sync(self, gather: Callable[[Any], list[Any]]) -> None:
        """Makes the rows of all processes this one's, in the order of the indices.

        Args:
            gather: takes a picklable object and returns those of all processes, this one's included.
        """
        self.rows = Rows.merged(gather(self.rows))

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns the numbers of everything seen since `reset`; raises NotComputed with the reason.

        A metric `m` may come with `m_low` and `m_high` (95 % interval), `m_n` (images it applies to), `m_real` (real
        images in place of the generated ones: the best the instrument can show), `m_chance` (images of other prompts),
        `m_noise` (noise in place of images: the other end of the scale), `m_reconstruction` (the model's own decoding
        of real images).
        """

    def reset(self) -> None:
        """Forgets every row."""
        self.rows = Rows()

    def protocol(self) -> dict[str, Any]:
        """What two numbers must share to be comparable, beyond data and sampling: goes on the evaluation card."""
        return {}

    def details(self) -> dict[str, Any]:
        """Plain tables behind the numbers (intervals, confusions, verdicts per image) for the report."""
        return {}


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
                "convert with evaluation.metrics.images.to_uint8"
            )


def check_n(name: str, n: int, least: int, why: str) -> None:
    """Raises NotComputed when there are too few images for a number to mean something."""
    if n < least:
        raise NotComputed(f"{name} needs n of at least {least}, got {n}: {why}")
