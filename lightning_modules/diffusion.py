"""Diffusion models of images or latents, unconditional or by class: DDPM, EDM and flow matching differ in yaml alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from contracts import Request
from diffusion.samplers import ddim, ddim_invert
from lightning_modules.cascade import Cascade
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage

COLUMNS = 16  # images of an unconditional sample grid
INVERSION_STEPS = 100  # of DDIM there and back, where none are given


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

    # ---- tasks beside drawing ----

    @torch.no_grad()
    def inpaint(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] whose pixels under `masks` (True = known) are those of `images`.

        Any sampler keeps the known pixels; `sampler=repaint` also makes the others agree with them.

        Raises: ValueError for latents, and for a request without images and masks.
        Source: Lugmayr et al. 2022 (RePaint)
        """
        if not isinstance(self.stage.space, Pixels):
            raise ValueError("only a model of pixels can fill parts of an image: this one draws latents")
        if request.images is None or request.masks is None:
            raise ValueError("to fill parts of an image, give the image and a mask")
        self.check_sampling(["diffusion"], request, seeds)
        known = request.images.to(self.device), request.masks.to(self.device)
        options = {"guidance_scale": guidance_scale, "num_steps": num_steps, "sampler": sampler}
        options["weaker"] = None if self.weaker is None else self.weaker.stages["diffusion"]
        image = self.stage.sample(self.request_fields(request), seeds, "diffusion", device=self.device, around=known, **options)
        return torch.where(known[1], known[0], image)

    @torch.no_grad()
    def invert(self, request: Request, *, num_steps: int | None = None) -> Tensor:
        """The noise (n, ...) from which `draw_from` comes back to `images`, up to an error that falls with num_steps.

        Source: Song et al. 2021 (DDIM), eq. 14; Dhariwal & Nichol 2021, appendix F
        """
        if request.images is None:
            raise ValueError("to invert an image, give it")
        x_0 = self.stage.space.encode({"image": request.images.to(self.device)})
        return ddim_invert(self._plain(request), self.stage.schedule, x_0, num_steps=num_steps or INVERSION_STEPS)

    @torch.no_grad()
    def draw_from(self, x_T: Tensor, request: Request, *, num_steps: int | None = None) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] drawn from this noise by deterministic DDIM."""
        steps = num_steps or INVERSION_STEPS
        return self.stage.space.decode(ddim(self._plain(request), self.stage.schedule, x_T.to(self.device), num_steps=steps))

    def _plain(self, request: Request) -> Callable[[Tensor, Tensor], Tensor]:
        """The denoiser without guidance and threshold, with which inversion and drawing are each other's opposite."""
        batch = {"seed": torch.zeros(request.n, dtype=torch.int64)} | self.request_fields(request)
        return self.stage.guided(batch, guidance_scale=1.0, threshold="none")

    def example_request(self) -> Request:
        """One image of each class, at most 16 classes, or 16 images."""
        if self.conditioning == "none":
            return Request(COLUMNS)
        classes = next(c.num_classes for c in self.stage.conditioners.values() if c.reads == "label")
        labels = list(range(min(classes, COLUMNS)))
        return Request(len(labels), labels=labels)
