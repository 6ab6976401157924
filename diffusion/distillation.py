"""Progressive distillation: what one step must say to land where several steps of a teacher land."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import Denoise
from diffusion.process import expand
from diffusion.schedules import NoiseSchedule


def aligned(schedule: NoiseSchedule, num_steps: int, substeps: int) -> bool:
    """Whether the grid of num_steps * substeps steps passes through all times of the grid of num_steps."""
    return torch.allclose(schedule.grid(num_steps * substeps)[::substeps], schedule.grid(num_steps), rtol=0, atol=1e-9)


def few_step_target(
    denoise: Denoise, schedule: NoiseSchedule, x_t: Tensor, index: Tensor, num_steps: int, substeps: int
) -> Tensor:
    """x_0 (B, ...) for which one DDIM step ends where `substeps` DDIM steps of a teacher end, which are shorter by that factor.

    Args:
        denoise: the teacher, guided and thresholded as it draws.
        x_t: (B, ...) at the times where the steps begin.
        index: (B,) int64, which of the student's num_steps steps each is, 0 the first, from pure noise.

    Source: Salimans & Ho 2022 (progressive distillation), algorithm 2 and appendix G, for any number of steps in place of 2
    """
    times = schedule.grid(num_steps * substeps)
    alphas, sigmas = schedule.alpha(times).double(), schedule.sigma(times).double()
    alphas[-1], sigmas[-1] = 1.0, 0.0  # the last time stands for clean data, as in diffusion.samplers
    times, alphas, sigmas = (part.to(x_t.device) for part in (times, alphas, sigmas))

    def at(table: Tensor, place: Tensor) -> Tensor:
        return expand(table[place], x_t)

    x, start = x_t, index * substeps
    for place in range(substeps):
        here = start + place
        x_0_hat = denoise(x, times[here].to(x.dtype))
        eps_hat = (x - at(alphas, here) * x_0_hat) / at(sigmas, here)
        x = at(alphas, here + 1) * x_0_hat + at(sigmas, here + 1) * eps_hat
    end = start + substeps
    ratio = sigmas[end] / sigmas[start]  # (B,) of the noise that stays
    return (x - expand(ratio, x) * x_t) / expand(alphas[end] - ratio * alphas[start], x)
