"""Samplers: functions from pure noise x_T to x_0, for any schedule and any denoiser `denoise(x_t, t) -> x_0_hat`.

All visit the schedule's grid (or `grid(num_steps)`): num_steps + 1 times from 1 down, the last of which stands for
clean data, alpha = 1 and sigma = 0, so the last step adds no noise and returns x_0_hat. eps is always re-derived from
x_0_hat, so guidance and thresholds act on it too. Coefficients are float64 numbers; alpha = 0 at t = 1 is allowed.
`on_step(step, x_t, x_0_hat)` sees each new x_t; `generator` is one torch.Generator or one per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.process import posterior, step_variance
from diffusion.random import Generators, randn
from diffusion.schedules import NoiseSchedule

Grid = Callable[[int], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]


class Step(NamedTuple):
    """One step from time t to u < t with its scales; t_u is None on the step to clean data."""

    index: int
    t: float
    t_u: float | None
    alpha: float
    sigma: float
    alpha_u: float
    sigma_u: float


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

    variance: small, of q(x_u | x_t, x_0), right for data at one point; large (DDPM's beta_t), right for N(0, I) data.
    Source: Ho et al. 2020, algorithm 2 and section 3.2
    """
    if variance not in ("small", "large"):
        raise ValueError(f"unknown variance {variance!r}: choose small or large")
    x = full_precision(x_T)
    for step in _steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, _times(step.t, x))
        scales = step.alpha, step.sigma, step.alpha_u, step.sigma_u
        c_x_t, c_x_0, var = posterior(*scales)
        x = c_x_t * x + c_x_0 * x_0_hat
        if step.t_u is not None:
            if variance == "large":
                # Of x_u given x_t for N(0, I) data; alpha² + sigma² = 1 leaves the step variance, DDPM's beta_t.
                total = (step.alpha_u**2 + step.sigma_u**2) / (step.alpha**2 + step.sigma**2)
                var = step_variance(*scales) * total
            x = x + math.sqrt(max(var, 0.0)) * randn(x.shape, generator, x.device, x.dtype)
        _report(on_step, step, x, x_0_hat)
    return x


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
    for step in _steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, _times(step.t, x))
        eps_hat = (x - step.alpha * x_0_hat) / step.sigma
        g_squared = eta**2 * posterior(step.alpha, step.sigma, step.alpha_u, step.sigma_u)[2]
        x = step.alpha_u * x_0_hat + math.sqrt(max(step.sigma_u**2 - g_squared, 0.0)) * eps_hat
        if eta > 0 and step.t_u is not None:
            x = x + math.sqrt(max(g_squared, 0.0)) * randn(x.shape, generator, x.device, x.dtype)
        _report(on_step, step, x, x_0_hat)
    return x


@torch.no_grad()
def heun(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Second-order deterministic sampling in 2 num_steps - 1 evaluations.

    The trapezoid rule on dx = x_0_hat dalpha + eps_hat dsigma; Euler's rule on the same equation is DDIM, and alpha = 1
    gives EDM's sampler without churn. `generator` is not used.
    Source: Karras et al. 2022 (EDM), algorithm 1, for any (alpha, sigma)
    """
    x = full_precision(x_T)
    for step in _steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, _times(step.t, x))
        eps_hat = (x - step.alpha * x_0_hat) / step.sigma
        x_u = step.alpha_u * x_0_hat + step.sigma_u * eps_hat
        if step.t_u is not None:  # no correction at sigma = 0, where eps is undefined
            x_0_hat_u = denoise(x_u, _times(step.t_u, x))
            eps_hat_u = (x_u - step.alpha_u * x_0_hat_u) / step.sigma_u
            x_u = x + (step.alpha_u - step.alpha) * (x_0_hat + x_0_hat_u) / 2
            x_u = x_u + (step.sigma_u - step.sigma) * (eps_hat + eps_hat_u) / 2
        x = x_u
        _report(on_step, step, x, x_0_hat)
    return x


@torch.no_grad()
def dpmpp_2m(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """DPM-Solver++(2M): second-order multistep on x_0_hat, one evaluation a step; first and last step are first order.

    With h = step in log(alpha / sigma), alpha_u (1 - exp(-h)) = alpha_u - sigma_u alpha / sigma, which stays finite at
    alpha = 0 and at sigma_u = 0. `generator` is not used.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2
    """
    x = full_precision(x_T)
    previous, h_previous = None, math.inf
    for step in _steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, _times(step.t, x))
        h = math.inf
        if step.alpha > 0 and step.sigma_u > 0:
            h = math.log(step.alpha_u / step.sigma_u) - math.log(step.alpha / step.sigma)
        estimate = x_0_hat
        # An infinite h_previous (the step from alpha = 0) leaves nothing to extrapolate from.
        if previous is not None and step.t_u is not None and math.isfinite(h_previous):
            estimate = x_0_hat + h / (2 * h_previous) * (x_0_hat - previous)
        x = step.sigma_u / step.sigma * x + (step.alpha_u - step.sigma_u * step.alpha / step.sigma) * estimate
        previous, h_previous = x_0_hat, h
        _report(on_step, step, x, x_0_hat)
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
    for step in reversed(list(_steps(schedule, num_steps, grid, x))):
        if step.t_u is None:
            x = step.alpha * (2 * x - denoise(step.alpha * x, _times(step.t, x)))
        else:
            x_0_hat = denoise(x, _times(step.t_u, x))
            x = step.alpha * x_0_hat + step.sigma * (x - step.alpha_u * x_0_hat) / step.sigma_u
    return x


def _steps(schedule: NoiseSchedule, num_steps: int, grid: Grid | None, x: Tensor) -> Iterator[Step]:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: a sampler needs at least 1 step")
    # Rounded to the dtype of x first, so that the denoiser, given the same times, sees the same scales.
    times = (grid or schedule.grid)(num_steps).to(x.dtype).double().cpu()
    alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    alphas[-1], sigmas[-1] = 1.0, 0.0
    t = [*times.tolist()[:-1], None]
    for i in range(num_steps):
        yield Step(i, t[i], t[i + 1], alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1])


def _times(t: float, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)


def _report(on_step: OnStep | None, step: Step, x: Tensor, x_0_hat: Tensor) -> None:
    if on_step is not None:
        on_step(step.index, x, x_0_hat)
