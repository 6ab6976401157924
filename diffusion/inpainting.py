"""Sampling around known pixels, as a wrapper around a denoiser that every sampler takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoise


def inpainted(denoise: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """The denoiser with known pixels of x_0_hat replaced by their true values; goes outside guidance and thresholds.

    Samplers re-derive eps from x_0_hat and end with x_0_hat, so that known pixels of x_t are alpha known + sigma eps on the
    way and exact at the end. The network sees the known part at the noise level of x_t only, and the unknown part is not
    a sample of the exact conditional distribution: it heeds the known pixels too little. The sampler `repaint` comes
    nearer, at `resamplings` times the cost; docs/diffusion.md has both in figures.
    Args: known, mask: broadcast to x_t (B, ...); mask bool, True = known.
    Raises: ValueError for a mask that is not bool.
    Source: Lugmayr et al. 2022 (RePaint), eq. 8; Song et al. 2021 (score SDE)
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}: give bool, True for known pixels")

    def inpainted_denoise(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        x_0_hat = denoise(x_t, t, **cond)
        return torch.where(mask.to(x_0_hat.device), known.to(x_0_hat), x_0_hat)

    return inpainted_denoise
