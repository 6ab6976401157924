"""Diffusion models of images or latents, unconditional or by class: DDPM, EDM and flow matching differ in yaml alone."""

from __future__ import annotations

from typing import Any

from contracts import Request
from lightning_modules.cascade import Cascade
from lightning_modules.stage import DiffusionStage

COLUMNS = 16  # images of an unconditional sample grid


class Diffusion(Cascade):
    """P(image), or P(image | class), by one diffusion stage.

    Args:
        stage: the diffusion model.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.

    Source: Ho et al. 2020 (DDPM); Karras et al. 2022 (EDM); Lipman et al. 2022, Liu et al. 2022 (flow matching)
    """

    def __init__(self, stage: DiffusionStage, **kwargs: Any) -> None:
        super().__init__({"diffusion": stage}, **kwargs)

    @property
    def stage(self) -> DiffusionStage:
        """The one stage."""
        return self.stages["diffusion"]

    def example_request(self) -> Request:
        """One image of each class, at most 16 classes, or 16 images."""
        if self.conditioning == "none":
            return Request(COLUMNS)
        classes = next(c.num_classes for c in self.stage.conditioners.values() if c.reads == "label")
        labels = list(range(min(classes, COLUMNS)))
        return Request(len(labels), labels=labels)
