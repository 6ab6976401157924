"""Filling the unknown part of an image with a cascade of pixels, and the masks that fine-tuning for it hides images by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import Batch, Request
from lightning_modules.spaces import Pixels, reduce
from rng.keyed import keyed_rand

SMALLEST_SIDE = 0.2  # of a hidden or shown rectangle, as a share of the picture's
SHOWN_INSIDE = 0.25  # share of the masks that show the rectangle alone, and not what is around it


class Inpainting:
    """What a `Cascade` of pixels can do: draw the unknown part of images.

    Each stage draws around the known pixels of its size, and a stage that was fine-tuned for it (`MaskedImageConditioner`)
    is also told them.
    """

    @torch.no_grad()
    def inpaint(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        guidance_scale: float | dict[str, float] | None = None,
        num_steps: int | dict[str, int] | None = None,
        sampler: Callable[..., Tensor] | None = None,
        clip_scale: float | None = None,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] whose pixels under `masks` (True = known) are those of `images`.

        Any sampler keeps the known pixels; `sampler=repaint` also makes the others agree with them.

        Args: as of `Cascade.sample`.
        Raises: ValueError for latents, for a request without images and masks, and for images of another size.
        Source: Lugmayr et al. 2022 (RePaint); Nichol et al. 2022 (GLIDE), section 3.2 (fine-tuned stages)
        """
        names = [name for name, stage in self.stages.items() if stage.space.image_size is not None]
        if not names or not all(isinstance(self.stages[name].space, Pixels) for name in names):
            raise ValueError("only a model of pixels can fill parts of an image: this one draws latents")
        if request.images is None or request.masks is None:
            raise ValueError("to fill parts of an image, give the image and a mask")
        self.check_sampling(names, request, seeds)
        image, mask = request.images.to(self.device), request.masks.to(self.device)
        if image.shape[-1] != (size := self.stages[names[-1]].space.image_size):
            raise ValueError(f"images of {image.shape[-1]} pixels: this model fills images of {size}")
        fields, drawn = self.drawing_fields(request, seeds), None
        scales = guidance_scale if isinstance(guidance_scale, dict) else {names[0]: guidance_scale}
        for name in names:
            stage = self.stages[name]
            known = known_at(image, mask, stage.space.image_size)
            drawn = stage.sample(
                fields | {"known": known[0], "known_mask": known[1]}, seeds, name, device=self.device, lowres=drawn,
                guidance_scale=scales.get(name), num_steps=num_steps.get(name) if isinstance(num_steps, dict) else num_steps,
                sampler=sampler, weaker=None if self.weaker is None else self.weaker.stages[name], around=known,
                **self.clip_options(request.texts, stage, clip_scale),
            )  # fmt: skip
        return torch.where(mask, image, drawn)


def known_at(image: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Images (n, C, size, size), averaged down, and masks (n, 1, size, size), True where every pixel of a block is known."""
    factor = mask.shape[-1] // size
    return reduce(image, size), F.max_pool2d((~mask).float(), factor) == 0


def hidden(x_0: Tensor, seeds: Tensor, tag: str, nothing_prob: float) -> Batch:
    """Training images with a part hidden: `known` (B, C, S, S) and `known_mask` (B, 1, S, S) bool, by keyed rectangles.

    Most masks hide a rectangle, some show it alone; with probability `nothing_prob` nothing is known, as in plain drawing.
    """
    corner, side, kind = (keyed_rand(seeds, tag, "mask", name, shape=(2,), device=x_0.device) for name in ("corner", "side", "kind"))
    side = SMALLEST_SIDE + (1 - SMALLEST_SIDE) * side
    corner = (1 - side) * corner
    inside = []
    for axis, length in enumerate(x_0.shape[-2:]):
        place = (torch.arange(length, device=x_0.device) + 0.5) / length
        inside.append((place >= corner[:, axis, None]) & (place < (corner + side)[:, axis, None]))  # (B, length)
    rectangle = inside[0][:, :, None] & inside[1][:, None, :]  # (B, S, S)
    mask = torch.where((kind[:, 0] < SHOWN_INSIDE)[:, None, None], rectangle, ~rectangle)
    mask = (mask & (kind[:, 1] >= nothing_prob)[:, None, None])[:, None]
    return {"known": x_0 * mask, "known_mask": mask}
