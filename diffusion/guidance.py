"""Guidance as a wrapper: a conditional denoiser in, a denoiser(x_t, t) out. Guidance first, thresholds after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoise
from diffusion.process import expand
from diffusion.schedules import NoiseSchedule


def guided(
    denoise: Denoise,
    cond: dict[str, Any],
    uncond: dict[str, Any] | None,
    scale: float | Tensor,
    *,
    rescale: float = 0.0,
    weaker: Denoise | None = None,
    interval: tuple[float, float] | None = None,
    schedule: NoiseSchedule | None = None,
) -> Denoise:
    """x_0_hat = base + scale (cond - base); scale 1 or 0 runs a single pass, and so does every time off the interval.

    base is the unconditional estimate (classifier-free guidance, both from one doubled batch), or, with `weaker`, what
    that worse model says under the same condition (autoguidance). For both together guide each model first and give
    them here: `guided(strong, {}, None, scale, weaker=weak)` with strong, weak = guided(...).
    Args: cond, uncond: the same keys, tensors (B, ...) or None; uncond is not read with `weaker`; scale: number or (B,);
    rescale in [0, 1] pulls the standard deviation of each sample back to that of the conditional estimate; interval:
    (low, high) of the log_snr at which to guide, ends included, given with the schedule; outside it is the
    conditional estimate. To learn where t lies takes one wait for the device per call.
    Raises: ValueError if cond and uncond do not match, or for an interval that is empty or without its schedule.
    Source: Ho & Salimans 2022, eq. 6 (their w is scale - 1); Lin et al. 2023, eqs. 15-16 (rescale); Karras et al. 2024a
    (autoguidance); Kynkäänniemi et al. 2024 (interval)
    """
    if interval is not None and (schedule is None or not interval[0] <= interval[1]):
        raise ValueError(f"interval={interval!r}: give (low, high) in log_snr with low <= high, and the schedule")

    def conditional(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, t, **cond)

    def base(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, t, **(uncond or {})) if weaker is None else weaker(x_t, t, **cond)

    number = None if isinstance(scale, Tensor) else scale
    if number == 1:
        return conditional
    both = _cat(cond, uncond or {}) if weaker is None and number != 0 else {}

    def guided_denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if number == 0:
            return base(x_t, t)
        if weaker is None:
            cond_hat, base_hat = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), **both).chunk(2)
        else:
            cond_hat, base_hat = conditional(x_t, t), base(x_t, t)
        w = expand(scale.to(x_t.device), cond_hat) if isinstance(scale, Tensor) else scale
        out = base_hat + w * (cond_hat - base_hat)
        if rescale > 0:
            out = out * (1 - rescale + rescale * _std(cond_hat) / _std(out).clamp(min=1e-8))
        return out

    return guided_denoise if interval is None else _within(interval, schedule, guided_denoise, conditional)


def _within(interval: tuple[float, float], schedule: NoiseSchedule, guided_denoise: Denoise, conditional: Denoise) -> Denoise:
    """The first denoiser at the log_snr of the interval, ends included, and the other one elsewhere."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        log_snr = schedule.log_snr(t)
        inside = (log_snr >= interval[0]) & (log_snr <= interval[1])  # (B,)
        share = inside.double().mean().item()
        if share == 0:
            return conditional(x_t, t)
        out = guided_denoise(x_t, t)
        return out if share == 1 else torch.where(expand(inside, out) > 0, out, conditional(x_t, t))

    return denoise


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
