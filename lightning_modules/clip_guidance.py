"""Guidance of a cascade by a CLIP that was trained on noised images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from contracts import ScoresNoised
from diffusion.process import expand
from lightning_modules.stage import DiffusionStage


class ClipGuidance:
    """What a `Cascade` of pixels that draws from captions can do: follow the gradient of a CLIP's score.

    The stage whose pictures have the size of the CLIP's is guided, and no other.
    """

    _clip: list[Any]  # a list keeps it out of the module tree

    def guide_by_clip(self, other: Any) -> None:
        """Draw from now on guided by this CLIP, with `clip_scale` of `sample`, 1 where none is given.

        Raises: ValueError for what is no CLIP, one that was trained on clean images alone, or one of another size, and
            where there are no captions to be guided by.
        Source: Nichol et al. 2022 (GLIDE), section 2.4
        """
        if not isinstance(other, ScoresNoised):
            raise ValueError(f"{type(other).__name__} is no CLIP of this repository")
        if other.noise is None:
            raise ValueError("this CLIP was trained on clean images, and guidance shows it noised ones: "
                             "train one with experiment=clip_noised")  # fmt: skip
        if self.conditioning != "text":
            raise ValueError("CLIP guides by captions, and this model draws from none")
        shape, shapes = (other.channels, other.image_size, other.image_size), [s.space.shape for s in self.stages.values()]
        if shape not in shapes:
            raise ValueError(f"this CLIP reads images {shape}, and the stages draw {', '.join(map(str, shapes))}: "
                             f"train one with data.image_size={shapes[0][-1]}")  # fmt: skip
        self._clip = [other.to(self.device).eval().requires_grad_(False)]

    def clip_options(self, captions: Sequence[str] | None, stage: DiffusionStage, scale: float | None) -> dict[str, Any]:
        """What `stage.sample` gets for it: nothing without a CLIP or captions, or for a stage of another size.

        Raises: ValueError for a scale without a CLIP.
        """
        if not self._clip:
            if scale is not None:
                raise ValueError(f"clip_scale={scale} is of guidance by a CLIP: give one, guide_clip=RUN")
            return {}
        clip = self._clip[0]
        if captions is None or stage.space.shape != (clip.channels, clip.image_size, clip.image_size):
            return {}
        return {"likelihood": caption_likelihood(clip, captions, stage), "likelihood_scale": 1.0 if scale is None else scale}


def caption_likelihood(clip: ScoresNoised, captions: Sequence[str], stage: DiffusionStage) -> Callable[[Tensor, Tensor], Tensor]:
    """(x_t, t) -> the CLIP's score (B,) of noised images with their captions; 0 for an empty caption."""
    with torch.inference_mode(False):
        text = clip.embed_text(list(captions))  # (B, E)
        asked = torch.tensor([bool(c.strip()) for c in captions], device=text.device)

    def score(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = stage.schedule.alpha(t), stage.schedule.sigma(t)
        x_t = x_t / expand((alpha**2 + sigma**2).sqrt(), x_t)  # of the spread that the CLIP was trained on
        return asked * clip.score_noised(x_t.float(), stage.schedule.log_snr(t).float(), text)

    return score
