"""Heun's method on the probability-flow equation, and EDM's stochastic sampler around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.process import step_variance
from rng.keyed import Generators, randn
from diffusion.samplers.steps import Grid, OnStep, Step, report, steps, times_of
from diffusion.schedules import NoiseSchedule


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
    for step in steps(schedule, num_steps, grid, x):
        x, x_0_hat = _heun_step(denoise, x, step)
        report(on_step, step, x, x_0_hat)
    return x


@torch.no_grad()
def edm(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    s_churn: float = 40.0,
    s_min: float = 0.05,
    s_max: float = 50.0,
    s_noise: float = 1.003,
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """EDM's stochastic sampler: noise is added before each Heun step; s_churn = 0 is `heun`.

    Where sigma / alpha lies in [s_min, s_max] it first rises by the factor 1 + min(s_churn / num_steps, sqrt(2) - 1), but
    not above the schedule's own maximum. The defaults are the paper's for ImageNet; for CIFAR-10 it uses no churn.
    Args: s_noise scales the new noise.
    Raises: ValueError for a negative s_churn.
    Source: Karras et al. 2022 (EDM), algorithm 2 and table 5, for any (alpha, sigma)
    """
    if s_churn < 0:
        raise ValueError(f"s_churn={s_churn}: give 0 for no churn, or a positive number")
    x = full_precision(x_T)
    for step in steps(schedule, num_steps, grid, x):
        gamma = min(s_churn / num_steps, math.sqrt(2) - 1)
        # alpha = 0 is an infinite noise level, above every s_max that is a number
        ratio = step.sigma / step.alpha if step.alpha > 0 else math.inf
        if gamma > 0 and s_min <= ratio <= s_max and math.isfinite(ratio):
            noisier = _at_ratio(schedule, step, ratio * (1 + gamma), x)
            added = step_variance(noisier.alpha, noisier.sigma, step.alpha, step.sigma)
            x = noisier.alpha / step.alpha * x
            x = x + s_noise * math.sqrt(max(added, 0.0)) * randn(x.shape, generator, x.device, x.dtype)
            step = noisier
        x, x_0_hat = _heun_step(denoise, x, step)
        report(on_step, step, x, x_0_hat)
    return x


def _heun_step(denoise: Denoise, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """(x_u, x_0_hat at t): the trapezoid rule, or Euler's where u is clean data, at which eps is undefined."""
    x_0_hat = denoise(x, times_of(step.t, x))
    eps_hat = (x - step.alpha * x_0_hat) / step.sigma
    x_u = step.alpha_u * x_0_hat + step.sigma_u * eps_hat
    if step.t_u is not None:
        x_0_hat_u = denoise(x_u, times_of(step.t_u, x))
        eps_hat_u = (x_u - step.alpha_u * x_0_hat_u) / step.sigma_u
        x_u = x + (step.alpha_u - step.alpha) * (x_0_hat + x_0_hat_u) / 2
        x_u = x_u + (step.sigma_u - step.sigma) * (eps_hat + eps_hat_u) / 2
    return x_u, x_0_hat


def _at_ratio(schedule: NoiseSchedule, step: Step, ratio: float, x: Tensor) -> Step:
    """The step, started from the time at which sigma / alpha is `ratio`; rounded to the dtype of x as all times are."""
    t = schedule.t_from_log_snr(torch.tensor(-2 * math.log(ratio), dtype=torch.float64)).to(x.dtype).double()
    alpha = schedule.alpha(t).item()
    if alpha <= 0:  # the schedule ends in pure noise, and from there x_t would say nothing of x_0
        return step
    return step._replace(t=t.item(), alpha=alpha, sigma=schedule.sigma(t).item())
