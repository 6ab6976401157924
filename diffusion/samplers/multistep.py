"""Multistep solvers: one evaluation a step, earlier estimates of x_0 give the higher order."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from rng.keyed import Generators, randn
from diffusion.samplers.steps import Grid, OnStep, Step, report, steps, times_of
from diffusion.schedules import NoiseSchedule


@torch.no_grad()
def dpmpp_2m(
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
    """DPM-Solver++(2M): second-order multistep on x_0_hat, one evaluation a step; first and last step are first order.

    With h = step in log(alpha / sigma), exp(-h) = sigma_u alpha / (sigma alpha_u), which stays finite at alpha = 0 and at
    sigma_u = 0. eta is how much noise each step adds: 0 none, 1 as much as ddpm, of which a first-order step is then one. For
    an exact denoiser every eta draws from the same distribution; a net's errors are repaired the better, the more noise.
    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2, and section 5 with appendix D for eta = 1 (SDE-DPM-Solver++(2M))
    """
    x = full_precision(x_T)
    previous, h_previous = None, math.inf
    for step in steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, times_of(step.t, x))
        h = math.inf
        if step.alpha > 0 and step.sigma_u > 0:
            h = math.log(step.alpha_u / step.sigma_u) - math.log(step.alpha / step.sigma)
        estimate = x_0_hat
        # An infinite h_previous (the step from alpha = 0) leaves nothing to extrapolate from.
        if previous is not None and step.t_u is not None and math.isfinite(h_previous):
            estimate = x_0_hat + h / (2 * h_previous) * (x_0_hat - previous)
        shrink = step.sigma_u * step.alpha / (step.sigma * step.alpha_u)  # exp(-h)
        x = step.sigma_u / step.sigma * shrink**eta * x + step.alpha_u * (1 - shrink ** (1 + eta)) * estimate
        if eta > 0 and step.t_u is not None:
            x = x + step.sigma_u * math.sqrt(1 - shrink ** (2 * eta)) * randn(x.shape, generator, x.device, x.dtype)
        previous, h_previous = x_0_hat, h
        report(on_step, step, x, x_0_hat)
    return x


@torch.no_grad()
def unipc(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    order: int = 2,
    corrector: bool = True,
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """UniPC-p with B_2(h): a multistep predictor on x_0_hat, corrected by the next step's estimate at no extra cost.

    The corrector lifts order p to p + 1. Without it p = 1 is ddim, p = 2 is dpmpp_2m and p = 3
    integrates the quadratic through three estimates, as DPM-Solver++(3M) does up to its halved last term. The
    first steps have lower order and the last one returns x_0_hat. `generator` is not used.
    Args: order: p from 1 to 3; p = 3 pays on Karras grids of 25 steps and more (docs/diffusion.md).
    Raises: ValueError for another order.
    Source: Zhao et al. 2023 (UniPC), sections 3.1 and 3.2, with data prediction
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order={order} of unipc: choose 1, 2 or 3")
    x = full_precision(x_T)
    # (log(alpha / sigma), x_0_hat) of earlier times, the newest last
    known: deque[tuple[float, Tensor]] = deque(maxlen=order)
    before: tuple[Step, Tensor] | None = None  # the step that led here and the x it started from
    for step in steps(schedule, num_steps, grid, x):
        x_0_hat = denoise(x, times_of(step.t, x))
        here = math.log(step.alpha / step.sigma) if step.alpha > 0 else -math.inf
        if corrector and before is not None and known and math.isfinite(known[-1][0]):
            x = _unipc_step(*before, known, (here, x_0_hat))
        if known and not math.isfinite(known[-1][0]):
            known.clear()  # infinitely far away: nothing to extrapolate from
        known.append((here, x_0_hat))
        before = step, x
        x = _unipc_step(step, x, known, None)
        report(on_step, step, x, x_0_hat)
    return x


def _unipc_step(step: Step, x: Tensor, known: deque[tuple[float, Tensor]], new: tuple[float, Tensor] | None) -> Tensor:
    """x_u from x at t and the estimates known there, the newest at t itself; `new` at u makes it the corrector."""
    (here, x_0_hat), *earlier = reversed(known)
    x_u = step.sigma_u / step.sigma * x + (step.alpha_u - step.sigma_u * step.alpha / step.sigma) * x_0_hat
    if step.t_u is None or not math.isfinite(here):
        return x_u
    h = math.log(step.alpha_u / step.sigma_u) - here
    points = [*earlier, *([new] if new else [])]
    if not points:
        return x_u
    ratios = [(there - here) / h for there, _ in points]
    weights = _unipc_weights(ratios, h)
    change = sum(w / r * (estimate - x_0_hat) for w, r, (_, estimate) in zip(weights, ratios, points))
    return x_u - step.alpha_u * math.expm1(-h) * change


def _unipc_weights(ratios: list[float], h: float) -> list[float]:
    """The a_i of the differences divided by their ratios: sum_i a_i r_i^(k-1) = b_k, k = 1 ... p, with B_2(h).

    One point gets 1 / 2 instead of b_1, of the same order and independent of h, as the paper does.
    """
    if len(ratios) == 1:
        return [0.5]
    b, phi, factorial = [], math.expm1(-h) / -h - 1, 1.0
    for k in range(1, len(ratios) + 1):
        b.append(phi * factorial / math.expm1(-h))
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    matrix = torch.tensor([[r**k for r in ratios] for k in range(len(ratios))], dtype=torch.float64)
    return torch.linalg.solve(matrix, torch.tensor(b, dtype=torch.float64)).tolist()
