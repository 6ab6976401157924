"""What makes a diffusion stage a super-resolution stage: the low-resolution image it starts from, noised, and crops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import Batch
from diffusion.process import add_noise
from rng.keyed import Generators, keyed_rand, keyed_randn, randn
from diffusion.schedules import CosineSchedule
from lightning_modules.spaces import enlarge, reduce


BLURRED = 0.5  # share of the training images


class LowResolution:
    """The image that a super-resolution stage enlarges, noised to a level that the stage is told.

    In training it is the data's own image, reduced, enlarged again and noised to a level drawn per sample
    (noise-conditioning augmentation); in sampling the picture of the stage below, noised to `aug_level`.

    Args:
        size: side of the low-resolution image, in pixels.
        crop_size: side of the crops of the large image that training sees; None for whole images.
        aug_level: level of noise when sampling, at most `max_aug_level`.
        max_aug_level: training levels are uniform in [0, max_aug_level], at most 1.
        blur_sigma: in pixels of the low-resolution image, of a Gaussian blur of 3 x 3 pixels that half of the training images
            get before the noise; 0 blurs none. DALL-E 2 has 0.6.

    Raises: ValueError for a level out of range.
    Source: Ho et al. 2022 (cascaded diffusion), section 4.2; Saharia et al. 2022 (Imagen), section 2.4; Ramesh et al. 2022
        (unCLIP), section 2.1
    """

    def __init__(
        self,
        size: int,
        *,
        crop_size: int | None = None,
        aug_level: float = 0.0,
        max_aug_level: float = 1.0,
        blur_sigma: float = 0.0,
    ) -> None:
        if not 0 <= max_aug_level <= 1:
            raise ValueError(f"max_aug_level={max_aug_level} is outside [0, 1]: 1 is nothing but noise")
        self.size, self.crop_size, self.max_aug_level, self.blur_sigma = size, crop_size, max_aug_level, blur_sigma
        self.aug_level = self.checked_level(aug_level)
        self.schedule = CosineSchedule()

    def checked_level(self, level: float | None) -> float:
        """A level to sample at; None is the configured one. Raises: ValueError for one that was not trained."""
        if level is None:
            return self.aug_level
        if not 0 <= level <= self.max_aug_level:
            raise ValueError(f"aug_level={level} is outside [0, {self.max_aug_level}], the levels that the stage is trained on")
        return float(level)  # of a whole number, such as 0, torch would make a tensor without fractions

    def check(self, image_size: int) -> None:
        """Raises ValueError unless the sizes fit a stage of `image_size` pixels."""
        if image_size % self.size:
            raise ValueError(f"image_size={image_size} is not a multiple of the low resolution, size={self.size}")
        if self.crop_size is not None and (self.crop_size > image_size or image_size % self.crop_size):
            raise ValueError(f"crop_size={self.crop_size}: crops have a side that divides the stage's {image_size} pixels")

    def for_training(self, batch: Batch, x_0: Tensor, seeds: Tensor, tag: str) -> tuple[Tensor, Batch]:
        """The stage's images (B, C, S, S), cropped, and the fields `lowres` and `aug_level` that belong to them."""
        small = reduce(batch["image"], self.size)
        if self.blur_sigma:
            blurred = keyed_rand(seeds, tag, "blur", device=small.device) < BLURRED
            small = torch.where(blurred[:, None, None, None], blur(small, self.blur_sigma), small)
        enlarged = enlarge(small, x_0.shape[-1])
        x_0, enlarged = self.crop(x_0, enlarged, seeds, tag)
        level = keyed_rand(seeds, tag, "aug_level", device=x_0.device) * self.max_aug_level
        eps = keyed_randn(seeds, x_0.shape[1:], tag, "aug_eps", device=x_0.device)
        return x_0, {"lowres": add_noise(enlarged, eps, level, self.schedule), "aug_level": level}

    def for_sampling(
        self, lowres: Tensor, image_size: int, generators: Generators, aug_level: float | None = None
    ) -> Batch:
        """The same fields for pictures (B, C, size, size) in [-1, 1] of the stage below."""
        enlarged = enlarge(lowres, image_size)
        level = torch.full((len(lowres),), self.checked_level(aug_level), device=lowres.device)
        eps = randn(enlarged.shape, generators, lowres.device)
        return {"lowres": add_noise(enlarged, eps, level, self.schedule), "aug_level": level}

    def crop(self, x_0: Tensor, enlarged: Tensor, seeds: Tensor | Sequence[int], tag: str) -> tuple[Tensor, Tensor]:
        """Cut the same keyed window from both; windows start on the low-resolution grid."""
        image_size = x_0.shape[-1]
        if self.crop_size is None or self.crop_size == image_size:
            return x_0, enlarged
        factor = image_size // self.size
        places = (image_size - self.crop_size) // factor + 1
        corners = [(keyed_rand(seeds, tag, axis) * places).long().tolist() for axis in ("crop_y", "crop_x")]
        windows = [
            (i, slice(None), slice(y * factor, y * factor + self.crop_size), slice(x * factor, x * factor + self.crop_size))
            for i, (y, x) in enumerate(zip(*corners))
        ]
        return torch.stack([x_0[w] for w in windows]), torch.stack([enlarged[w] for w in windows])


def blur(image: Tensor, sigma: float) -> Tensor:
    """(B, C, S, S) by a Gaussian of 3 x 3 pixels, its sum 1; pixels at the edge are repeated outwards."""
    side = math.exp(-0.5 / sigma**2)
    line = torch.tensor([side, 1.0, side], dtype=image.dtype, device=image.device)
    line = (line / line.sum()).expand(image.shape[1], 1, 3)  # (C, 1, 3)
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = F.conv2d(padded, line[..., None, :], groups=image.shape[1])
    return F.conv2d(rows, line[..., :, None], groups=image.shape[1])
