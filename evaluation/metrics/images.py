"""The one conversion from model range to bytes, used for real and generated images alike."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(image: Tensor) -> Tensor:
    """Clamps, scales and rounds images in [-1, 1] to uint8.

    Args:
        image: float (B, C, H, W) in [-1, 1]; values outside are clamped.
    Raises:
        ValueError: not a floating (B, C, H, W) tensor, or it holds NaN or infinity: a broken image is a result to
            report, and must not become a black one.
    Source: Parmar et al. 2022, section 3 (quantise once, by rounding).
    """
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(
            f"expected a float image batch (B, C, H, W) in [-1, 1], got {image.dtype} {tuple(image.shape)}"
        )
    if not torch.isfinite(image).all():
        bad = (~torch.isfinite(image)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"images {bad[:8]} of the batch hold NaN or infinite pixels: the sampler or the weights diverged"
        )
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
