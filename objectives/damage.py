"""Light damage that a judge of pictures should not mind: stains, noise and blur, on some of its training images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_UNIFORM = 4  # random numbers an image: whether it is damaged, then the strength of stains, noise and blur
STAIN, NOISE = 16 / 255, 0.1  # largest standard deviations, of images in [-1, 1]: 8 and 13 levels of 255
BLUR = 1.0  # largest standard deviation, in pixels
STAINS = 8  # stains along a side


def damaged(image: Tensor, prob: float, u: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1], each with probability `prob` blurred, stained and noisy, and then in [-1, 1] again.

    Strengths go up to the largest ones; their square roots are uniform, so that weak damage is the more frequent.

    Args:
        u: (B, NUM_UNIFORM) uniform in [0, 1).
        coarse: (B, C, STAINS, STAINS) standard normal, the stains, enlarged to the image.
        fine: (B, C, H, W) standard normal, the noise.
    """
    hit, strength = u[:, 0] < prob, u[:, 1:, None, None, None] ** 2  # (B,), (B, 3, 1, 1, 1)
    stains = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=False)
    worse = blurred(image, BLUR * u[:, 3] ** 2) + strength[:, 0] * STAIN * stains + strength[:, 1] * NOISE * fine
    return torch.where(hit[:, None, None, None], worse.clamp(-1, 1), image)


def blurred(image: Tensor, std: Tensor) -> Tensor:
    """Images (B, C, H, W), each blurred by a Gaussian of its own standard deviation (B,), in pixels of at most BLUR."""
    radius = round(3 * BLUR)
    place = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = (-(place**2) / (2 * std.clamp(min=1e-3)[:, None] ** 2)).exp()  # (B, K)
    kernel = kernel / kernel.sum(1, keepdim=True)
    b, c, h, w = image.shape
    rows = kernel.repeat_interleave(c, 0)[:, None, None]  # (B * C, 1, 1, K)
    x = image.reshape(1, b * c, h, w)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="reflect"), rows, groups=b * c)
    x = F.conv2d(F.pad(x, (0, 0, radius, radius), mode="reflect"), rows.transpose(2, 3), groups=b * c)
    return x.view(b, c, h, w)
