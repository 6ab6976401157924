"""Thresholding of x_0_hat as a wrapper around a denoiser; for pixels in [-1, 1], never for latents or embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoise
from diffusion.process import expand

THRESHOLDS = ("none", "static", "dynamic")


def thresholded(denoise: Denoise, kind: str, percentile: float = 0.995) -> Denoise:
    """The denoiser with its x_0_hat kept in [-1, 1]: static clips; dynamic clips to s and divides by s, per sample.

    s = max(1, percentile of |x_0_hat| over the sample).
    Raises: ValueError for an unknown kind, or a percentile outside (0, 1].
    Source: Saharia et al. 2022 (Imagen), section 2.3 and figure A.10
    """
    if kind not in THRESHOLDS:
        raise ValueError(f"unknown threshold {kind!r}: choose one of {', '.join(THRESHOLDS)}")
    if not 0 < percentile <= 1:
        raise ValueError(f"percentile={percentile} must lie in (0, 1]; 0.995 is usual")
    if kind == "none":
        return denoise
    apply = static_threshold if kind == "static" else lambda x: dynamic_threshold(x, percentile)

    def thresholded_denoise(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return apply(denoise(x_t, t, **cond))

    return thresholded_denoise


def static_threshold(x_0_hat: Tensor) -> Tensor:
    """x_0_hat clipped to [-1, 1].

    Source: Saharia et al. 2022 (Imagen), section 2.3
    """
    return x_0_hat.clamp(-1, 1)


def dynamic_threshold(x_0_hat: Tensor, percentile: float = 0.995) -> Tensor:
    """x_0_hat (B, ...) clipped to [-s, s] and divided by s = max(1, percentile of |x_0_hat|), one s per sample.

    Source: Saharia et al. 2022 (Imagen), section 2.3
    """
    # One sample at a time: torch.quantile refuses more than 2^24 numbers.
    quantiles = torch.stack([torch.quantile(sample.abs().flatten(), percentile) for sample in x_0_hat])
    s = expand(quantiles.clamp(min=1), x_0_hat)
    return torch.minimum(torch.maximum(x_0_hat, -s), s) / s
