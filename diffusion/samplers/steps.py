"""What every sampler walks on: the steps of a grid of times with their scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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


def steps(schedule: NoiseSchedule, num_steps: int, grid: Grid | None, x: Tensor) -> Iterator[Step]:
    """The num_steps steps of a sampler, scales as float64 numbers; the last one leads to clean data, (1, 0).

    Raises: ValueError for fewer than one step.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: a sampler needs at least 1 step")
    # Rounded to the dtype of x first, so that the denoiser, given the same times, sees the same scales.
    times = (grid or schedule.grid)(num_steps).to(x.dtype).double().cpu()
    alphas, sigmas = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    alphas[-1], sigmas[-1] = 1.0, 0.0
    t = [*times.tolist()[:-1], None]
    for i in range(num_steps):
        yield Step(i, t[i], t[i + 1], alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1])


def times_of(t: float, x: Tensor) -> Tensor:
    """The time t for every sample of x, (B,)."""
    return torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)


def report(on_step: OnStep | None, step: Step, x: Tensor, x_0_hat: Tensor) -> None:
    """Tell who watches, if anybody does."""
    if on_step is not None:
        on_step(step.index, x, x_0_hat)
