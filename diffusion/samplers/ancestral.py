"""DDPM and DDIM: sampling from the reverse kernels of the forward process, and DDIM run backwards."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.learned_variance import interpolated_log_variance, reverse_variances
from diffusion.process import posterior
from rng.keyed import Generators, randn
from diffusion.samplers.steps import Grid, OnStep, Step, report, steps, times_of
from diffusion.schedules import NoiseSchedule


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    variance: str = "small",
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Ancestral sampling from the exact reverse kernels given x_0_hat.

    variance: small, of q(x_u | x_t, x_0), right for data at one point; large (DDPM's beta_t), right for N(0, I) data;
    learned, between the two, from `denoise.with_variance(x_t, t) -> (x_0_hat, v)`.
    Source: Ho et al. 2020, algorithm 2 and section 3.2; Nichol & Dhariwal 2021, eq. 15 (learned)
    """
    check_variance(denoise, variance)
    x = full_precision(x_T)
    for step in steps(schedule, num_steps, grid, x):
        x, x_0_hat = reverse_step(denoise, x, step, variance, generator)
        report(on_step, step, x, x_0_hat)
    return x


def check_variance(denoise: Denoise, variance: str) -> None:
    """Raises: ValueError for an unknown variance, or a learned one of a denoiser that has learned none."""
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"unknown variance {variance!r}: choose small, large or learned")
    if variance == "learned" and not hasattr(denoise, "with_variance"):
        raise ValueError("variance='learned' needs a denoiser with_variance: this one has learned none; choose small or large")


def reverse_step(
    denoise: Denoise, x: Tensor, step: Step, variance: str, generator: Generators
) -> tuple[Tensor, Tensor]:
    """(x_u, x_0_hat): one draw from the reverse kernel given x_0_hat; no noise on the step to clean data."""
    t, v = times_of(step.t, x), None
    if variance == "learned":
        x_0_hat, v = denoise.with_variance(x, t)
    else:
        x_0_hat = denoise(x, t)
    scales = step.alpha, step.sigma, step.alpha_u, step.sigma_u
    c_x_t, c_x_0, _ = posterior(*scales)
    x = c_x_t * x + c_x_0 * x_0_hat
    if step.t_u is not None:
        small, large = reverse_variances(*scales)
        if v is not None:
            std = (interpolated_log_variance(v.to(x.dtype), small, large) / 2).exp()
        else:
            std = math.sqrt(max(small if variance == "small" else large, 0.0))
        x = x + std * randn(x.shape, generator, x.device, x.dtype)
    return x, x_0_hat


@torch.no_grad()
def ddim(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    eta: float = 0.0,
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_u = alpha_u x_0_hat + sqrt(sigma_u² - g²) eps_hat + g z; eta = 0 is deterministic, eta = 1 is ddpm (small).

    Source: Song et al. 2021 (DDIM), eqs. 12 and 16, with g² = eta² times the variance of q(x_u | x_t, x_0)
    """
    x = full_precision(x_T)
    for step in steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, times_of(step.t, x))
        eps_hat = (x - step.alpha * x_0_hat) / step.sigma
        g_squared = eta**2 * posterior(step.alpha, step.sigma, step.alpha_u, step.sigma_u)[2]
        x = step.alpha_u * x_0_hat + math.sqrt(max(step.sigma_u**2 - g_squared, 0.0)) * eps_hat
        if eta > 0 and step.t_u is not None:
            x = x + math.sqrt(max(g_squared, 0.0)) * randn(x.shape, generator, x.device, x.dtype)
        report(on_step, step, x, x_0_hat)
    return x


@torch.no_grad()
def ddim_invert(
    denoise: Denoise, schedule: NoiseSchedule, x_0: Tensor, *, num_steps: int, grid: Grid | None = None
) -> Tensor:
    """The x_T from which deterministic DDIM comes back to x_0, up to an error that falls with num_steps.

    The first step has no eps to start from (sigma = 0): it solves denoise(x_1, t_1) = x_0 by one fixed-point iteration.
    Source: Song et al. 2021 (DDIM), eq. 14 run upward; Dhariwal & Nichol 2021, appendix F
    """
    x = full_precision(x_0)
    for step in reversed(list(steps(schedule, num_steps, grid, x))):
        if step.t_u is None:
            x = step.alpha * (2 * x - denoise(step.alpha * x, times_of(step.t, x)))
        else:
            x_0_hat = denoise(x, times_of(step.t_u, x))
            x = step.alpha * x_0_hat + step.sigma * (x - step.alpha_u * x_0_hat) / step.sigma_u
    return x
