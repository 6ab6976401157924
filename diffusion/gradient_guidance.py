"""Guidance by the gradient of a likelihood log p(c | x_t), as a wrapper around a denoiser that every sampler takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoise
from diffusion.process import expand
from diffusion.schedules import NoiseSchedule

Likelihood = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> log p(c | x_t) (B,), up to a constant
SMALLEST_ALPHA = 0.05


def gradient_guided(denoise: Denoise, log_likelihood: Likelihood, schedule: NoiseSchedule, scale: float) -> Denoise:
    """x_0_hat + (sigma² / alpha) scale grad log p(c | x_t): with scale 1 and the exact likelihood, the posterior's denoiser.

    By Tweedie's formula x_0_hat = (x_t + sigma² score) / alpha, and Bayes' rule adds the gradient to the score. For small
    steps this moves the mean of a reverse step by its variance times the gradient, as the papers have it. Goes outside
    classifier-free guidance and inside thresholds. Where alpha is below 0.05, hardly anything of the picture is left in
    x_t: an exact gradient is as small as alpha there, that of a learned likelihood is not, and alpha counts as 0.05.

    Args:
        log_likelihood: differentiable in x_t; what it does is not recorded for the weights of a model inside.
        scale: 0 is off.
    Raises: ValueError for a scale that is not finite.
    Source: Dhariwal & Nichol 2021, section 4; Nichol et al. 2022 (GLIDE), section 2.4; Efron 2011 (Tweedie's formula)
    """
    if not abs(scale) < float("inf"):
        raise ValueError(f"scale={scale}: give a number")
    if scale == 0:
        return denoise

    def shifted(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        x_0_hat = denoise(x_t, t, **cond)
        alpha, sigma = schedule.alpha(t).clamp(min=SMALLEST_ALPHA), schedule.sigma(t)
        return x_0_hat + scale * expand(sigma**2 / alpha, x_0_hat) * gradient(log_likelihood, x_t, t).to(x_0_hat)

    return shifted


def gradient(log_likelihood: Likelihood, x_t: Tensor, t: Tensor) -> Tensor:
    """The gradient (B, ...) of each sample's log-likelihood in its own x_t, also where gradients are switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        # What was made in inference mode cannot be recorded; a copy can.
        x_t, t = x_t.detach().clone().requires_grad_(), t.clone()
        return torch.autograd.grad(log_likelihood(x_t, t).sum(), x_t)[0].detach()
