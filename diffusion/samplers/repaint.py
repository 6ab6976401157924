"""Ancestral sampling that goes back and forth, so that known and unknown pixels come to agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.process import step_variance
from rng.keyed import Generators, randn
from diffusion.samplers.ancestral import check_variance, reverse_step
from diffusion.samplers.steps import Grid, OnStep, report, steps
from diffusion.schedules import NoiseSchedule


@torch.no_grad()
def repaint(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    num_steps: int,
    resamplings: int = 10,
    jump_steps: int = 1,
    variance: str = "small",
    generator: Generators = None,
    grid: Grid | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """`ddpm` in which every block of jump_steps steps is run `resamplings` times, noised back in between.

    For a denoiser wrapped by `diffusion.inpainting.inpainted`; one evaluation a step and resampling. With resamplings = 1
    it is ddpm. `on_step` sees the last run of each block.
    Raises: ValueError for fewer than one resampling or step of a block.
    Source: Lugmayr et al. 2022 (RePaint), algorithm 1 and section 4.2 (their jump length 10, 10 resamplings)
    """
    if resamplings < 1 or jump_steps < 1:
        raise ValueError(f"resamplings={resamplings}, jump_steps={jump_steps}: both must be at least 1")
    check_variance(denoise, variance)
    x, walk = full_precision(x_T), list(steps(schedule, num_steps, grid, full_precision(x_T)))
    for start in range(0, num_steps, jump_steps):
        block = walk[start : start + jump_steps]
        first, last = block[0], block[-1]
        for again in reversed(range(resamplings)):
            for step in block:
                x, x_0_hat = reverse_step(denoise, x, step, variance, generator)
                if again == 0:
                    report(on_step, step, x, x_0_hat)
            if again:
                added = step_variance(first.alpha, first.sigma, last.alpha_u, last.sigma_u)
                z = randn(x.shape, generator, x.device, x.dtype)
                x = first.alpha / last.alpha_u * x + math.sqrt(max(added, 0.0)) * z
    return x
