"""One stage of a cascade: a diffusion net with its own schedule, loss, guidance and sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.denoiser import denoising_loss, make_denoiser
from diffusion.guidance import guided
from diffusion.prediction import PREDICTIONS
from diffusion.process import add_noise
from diffusion.random import keyed_generators, keyed_rand, keyed_randn, randn
from diffusion.samplers import OnStep
from diffusion.schedules import CosineSchedule, NoiseSchedule
from diffusion.threshold import THRESHOLDS, thresholded
from diffusion.weighting import WEIGHTINGS


class DiffusionStage(nn.Module):
    """A net of the cascade and all that trains it and samples from it.

    A stage with ``lowres_size`` is a super-resolution stage: it sees the image reduced to that size, enlarged again and
    noised to a level drawn per sample (noise-conditioning augmentation), and is told the level.

    Args:
        net: called as ``net(x, log_snr, text=, text_mask=, lowres=, aug_level=)``.
        image_size: side of what the stage produces, in pixels.
        lowres_size: side of the image it starts from; None for the base stage.
        channels: image channels.
        prediction: what the net predicts, ``eps | x_0 | v | flow``.
        weighting: the loss weighting, see ``diffusion.weighting``; ``weighting_kwargs`` are its parameters.
        sampler: a function of ``diffusion.samplers``.
        guidance_scale: w of ``uncond + w (cond - uncond)``; 1 is off.
        threshold: ``none | static | dynamic`` on the estimated image, after guidance.
        sigma_data: set for EDM preconditioning.
        noise_levels: mean and standard deviation of the normal distribution of log-SNR in training, to spend it where
            pictures are decided; None draws t uniformly.
        cond_drop_prob: probability of training a sample without its text.
        crop_size: side of the crops a super-resolution stage trains on; None for whole images.
        batch_share: share of each batch this stage trains on; a cheap stage needs fewer images.
        aug_level: level of noise on the low-resolution image when sampling, in [0, 1].
        max_aug_level: training levels are uniform in [0, max_aug_level].

    Raises:
        ValueError: for a share, probability or size out of range.

    Source: Saharia et al. 2022 (Imagen), section 2; Ho et al. 2022 (cascaded diffusion).
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        image_size: int,
        schedule: NoiseSchedule,
        sampler: Callable[..., Tensor],
        lowres_size: int | None = None,
        channels: int = 3,
        prediction: str = "v",
        weighting: str = "uniform",
        weighting_kwargs: dict[str, float] | None = None,
        num_steps: int = 50,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        threshold: str = "dynamic",
        threshold_percentile: float = 0.995,
        sigma_data: float | None = None,
        noise_levels: Sequence[float] | None = None,
        cond_drop_prob: float = 0.1,
        crop_size: int | None = None,
        batch_share: float = 1.0,
        aug_level: float = 0.0,
        max_aug_level: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (("cond_drop_prob", cond_drop_prob), ("aug_level", aug_level), ("batch_share", batch_share)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} of the {image_size}-pixel stage is outside [0, 1]")
        if lowres_size is not None and image_size % lowres_size:
            raise ValueError(f"image_size={image_size} is not a multiple of lowres_size={lowres_size}")
        if crop_size is not None and (lowres_size is None or crop_size > image_size or image_size % crop_size):
            raise ValueError(f"crop_size={crop_size}: only a super-resolution stage trains on crops, a divisor of its size")
        check_choices(prediction, weighting, threshold)
        if noise_levels is not None and (len(noise_levels) != 2 or not noise_levels[1] > 0):
            raise ValueError(f"noise_levels={list(noise_levels)}: give a mean and a standard deviation above 0")
        if not batch_share > 0:
            raise ValueError(f"batch_share={batch_share}: a stage trains on a share of the batch above 0")
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: give a whole number of at least 1")
        self.net = net
        self.image_size, self.lowres_size, self.channels = image_size, lowres_size, channels
        self.schedule, self.prediction, self.sigma_data = schedule, prediction, sigma_data
        self.weighting, self.weighting_kwargs, self.noise_levels = weighting, weighting_kwargs, noise_levels
        self.sampler, self.num_steps = sampler, num_steps
        self.guidance_scale, self.guidance_rescale = guidance_scale, guidance_rescale
        self.threshold, self.threshold_percentile = threshold, threshold_percentile
        self.cond_drop_prob, self.crop_size, self.batch_share = cond_drop_prob, crop_size, batch_share
        self.aug_level, self.max_aug_level, self.aug_schedule = aug_level, max_aug_level, CosineSchedule()
        # In the state_dict, so that a checkpoint says by itself which of its stages may be sampled.
        self.register_buffer("images_trained", torch.zeros((), dtype=torch.int64))

    def times(self, u: Tensor) -> Tensor:
        """Training times (B,) from uniform numbers (B,) in [0, 1), by inversion.

        Source: Karras et al. 2022 (EDM), table 1, for the normal distribution of log-SNR.
        """
        if self.noise_levels is None:
            return u
        mean, std = self.noise_levels
        log_snr = mean + std * torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
        return self.schedule.t_from_log_snr(log_snr.clamp(-19, 19))

    def loss(self, image: Tensor, text: Tensor, text_mask: Tensor, seeds: Tensor, u: Tensor, tag: str) -> Tensor:
        """Per-sample loss (B,) of this stage; all randomness but u is keyed by the samples' seeds and the tag.

        Args:
            image: (B, C, S, S) in [-1, 1] at the data's own size.
            text, text_mask: (B, L, D) tokens and (B, L) bool.
            seeds: (B,) int64.
            u: (B,) uniform in [0, 1), the quantile of each sample's noise level.
        """
        x_0, condition = self._crop(*self._targets(image), seeds, tag)
        keep = keyed_rand(seeds, tag, "drop", device=x_0.device) >= self.cond_drop_prob
        cond: dict[str, Any] = dict(zip(("text", "text_mask"), drop_text(text, text_mask, keep)))
        if condition is not None:
            level = keyed_rand(seeds, tag, "aug_level", device=x_0.device) * self.max_aug_level
            aug_eps = keyed_randn(seeds, x_0.shape[1:], tag, "aug_eps", device=x_0.device)
            cond |= {"lowres": add_noise(condition, aug_eps, level, self.aug_schedule), "aug_level": level}
        return denoising_loss(
            self.net,
            x_0,
            schedule=self.schedule,
            prediction=self.prediction,
            weighting=self.weighting,
            weighting_kwargs=self.weighting_kwargs,
            sigma_data=self.sigma_data,
            t=self.times(u),
            eps=keyed_randn(seeds, x_0.shape[1:], tag, "eps", device=x_0.device),
            **cond,
        )

    @torch.no_grad()
    def sample(
        self,
        text: Tensor,
        text_mask: Tensor,
        keep: Tensor,
        seeds: Sequence[int],
        tag: str,
        *,
        lowres: Tensor | None = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: Callable[..., Tensor] | None = None,
        threshold: str | None = None,
        aug_level: float | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Draw images (B, C, image_size, image_size) in [-1, 1]; None leaves an option as the stage has it.

        Args:
            text, text_mask: (B, L, D) and (B, L) bool.
            keep: (B,) bool, False = unconditional (an empty prompt).
            lowres: (B, C, lowres_size, lowres_size) in [-1, 1] for a super-resolution stage.
        """
        device = text.device
        generators = keyed_generators(seeds, tag, "sample")
        shape = (len(text), self.channels, self.image_size, self.image_size)
        cond = dict(zip(("text", "text_mask"), drop_text(text, text_mask, keep)))
        uncond = dict(zip(("text", "text_mask"), drop_text(text, text_mask, torch.zeros_like(keep))))
        if self.lowres_size is not None:
            level = torch.full((len(text),), self.aug_level if aug_level is None else aug_level, device=device)
            enlarged = enlarge(lowres, self.image_size)
            noised = add_noise(enlarged, randn(shape, generators, device), level, self.aug_schedule)
            cond |= {"lowres": noised, "aug_level": level}
            uncond |= {"lowres": noised, "aug_level": level}
        denoise = make_denoiser(self.net, self.schedule, self.prediction, sigma_data=self.sigma_data)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        denoise = guided(denoise, cond, uncond, scale, rescale=self.guidance_rescale)
        denoise = thresholded(denoise, self.threshold if threshold is None else threshold, self.threshold_percentile)
        x_T = self.schedule.sigma(torch.ones((), device=device)) * randn(shape, generators, device)
        x_0 = (self.sampler if sampler is None else sampler)(
            denoise,
            self.schedule,
            x_T,
            num_steps=self.num_steps if num_steps is None else num_steps,
            generator=generators,
            on_step=on_step,
        )
        return x_0.clamp(-1, 1)

    def _targets(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The image at this stage's size and, for super-resolution, its reduced and enlarged version."""
        x_0 = reduce(image, self.image_size)
        return x_0, None if self.lowres_size is None else enlarge(reduce(image, self.lowres_size), self.image_size)

    def _crop(
        self, x_0: Tensor, condition: Tensor | None, seeds: Tensor, tag: str
    ) -> tuple[Tensor, Tensor | None]:
        """Cut the same keyed window from both; windows start on the low-resolution grid."""
        if self.crop_size is None or self.crop_size == self.image_size:
            return x_0, condition
        factor = self.image_size // self.lowres_size
        places = (self.image_size - self.crop_size) // factor + 1
        corners = [(keyed_rand(seeds, tag, axis) * places).long().tolist() for axis in ("crop_y", "crop_x")]
        windows = [
            (i, slice(None), slice(y * factor, y * factor + self.crop_size), slice(x * factor, x * factor + self.crop_size))
            for i, (y, x) in enumerate(zip(*corners))
        ]
        return torch.stack([x_0[w] for w in windows]), torch.stack([condition[w] for w in windows])


def check_choices(prediction: str, weighting: str, threshold: str) -> None:
    """Raises ValueError, before anything is trained, for a word that is not known."""
    known = {
        "prediction": (prediction, PREDICTIONS), "weighting": (weighting, WEIGHTINGS), "threshold": (threshold, THRESHOLDS)
    }  # fmt: skip
    for name, (chosen, choices) in known.items():
        if chosen not in choices:
            raise ValueError(f"{name}={chosen}: choose one of {', '.join(choices)}")


def drop_text(text: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Where keep is False, replace a caption by nothing: one token of zeros, whatever the caption's length was.

    Args: text (B, L, D), mask (B, L) bool, keep (B,) bool.
    Source: Saharia et al. 2022 (Imagen), section 2.2 (embeddings zeroed).
    """
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return text * keep[:, None, None], torch.where(keep[:, None], mask, first)


def reduce(image: Tensor, size: int) -> Tensor:
    """Shrink (B, C, S, S) by averaging whole blocks of pixels; S must be a multiple of size."""
    if image.shape[-1] == size:
        return image
    if image.shape[-1] % size:
        raise ValueError(f"data of {image.shape[-1]} pixels cannot be reduced to a stage's {size}: not a multiple")
    return F.avg_pool2d(image, image.shape[-1] // size)


def enlarge(image: Tensor, size: int) -> Tensor:
    """Grow (B, C, s, s) to size by bilinear interpolation."""
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
