"""Classifier-free guidance as a wrapper: a conditional denoiser in, a denoiser(x_t, t) out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoise
from diffusion.process import expand


def guided(
    denoise: Denoise,
    cond: dict[str, Any],
    uncond: dict[str, Any],
    scale: float | Tensor,
    *,
    rescale: float = 0.0,
) -> Denoise:
    """x_0_hat = uncond + scale (cond - uncond), both from one doubled batch; scale 1 or 0 runs a single pass.

    Args: cond, uncond: the same keys, tensors (B, ...) or None; scale: number or (B,); rescale in [0, 1] pulls the
    standard deviation of each sample back to that of the conditional estimate.
    Raises: ValueError if cond and uncond do not match.
    Source: Ho & Salimans 2022, eq. 6 (their w is scale - 1); Lin et al. 2023, eqs. 15-16 (rescale)
    """
    if not isinstance(scale, Tensor) and scale in (0, 1):
        single = cond if scale == 1 else uncond
        return lambda x_t, t: denoise(x_t, t, **single)
    both = _cat(cond, uncond)

    def guided_denoise(x_t: Tensor, t: Tensor) -> Tensor:
        x_0_hat = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), **both)
        cond_hat, uncond_hat = x_0_hat.chunk(2)
        w = expand(scale.to(x_t.device), cond_hat) if isinstance(scale, Tensor) else scale
        out = uncond_hat + w * (cond_hat - uncond_hat)
        if rescale > 0:
            out = out * (1 - rescale + rescale * _std(cond_hat) / _std(out).clamp(min=1e-8))
        return out

    return guided_denoise


def _cat(cond: dict[str, Any], uncond: dict[str, Any]) -> dict[str, Any]:
    if cond.keys() != uncond.keys():
        raise ValueError(f"guidance needs the same keys in cond {sorted(cond)} and uncond {sorted(uncond)}")
    both = {}
    for key, value in cond.items():
        if value is None and uncond[key] is None:
            both[key] = None
            continue
        if not (isinstance(value, Tensor) and isinstance(uncond[key], Tensor) and value.shape == uncond[key].shape):
            shapes = [getattr(c[key], "shape", c[key]) for c in (cond, uncond)]
            raise ValueError(f"guidance condition {key!r} differs in shape: cond {shapes[0]}, uncond {shapes[1]}")
        both[key] = torch.cat([value, uncond[key]])
    return both


def _std(x: Tensor) -> Tensor:
    return expand(x.flatten(1).std(dim=1), x)
