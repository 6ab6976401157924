"""The target of distillation against the exact flow of Gaussian data, and against the sampler itself."""

from __future__ import annotations

import pytest
import torch

from diffusion.distillation import aligned, few_step_target
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule, KarrasSchedule, RectifiedFlowSchedule

SCHEDULES = [CosineSchedule(), CosineSchedule(shift=-2.0), RectifiedFlowSchedule()]
STD, MEAN = 0.5, 0.3


def exact(schedule):
    """The denoiser of data N(MEAN, STD²), float64."""

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return MEAN + alpha * STD**2 * (x_t - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    return denoise


def scales(schedule, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    alpha[-1], sigma[-1] = 1.0, 0.0
    return alpha[:, None], sigma[:, None]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_one_step_with_the_target_ends_where_the_teachers_steps_end(schedule) -> None:
    num_steps, substeps = 4, 3
    times = schedule.grid(num_steps)
    alpha, sigma = scales(schedule, times)
    x_t = torch.randn(num_steps, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    index = torch.arange(num_steps)
    goal = few_step_target(exact(schedule), schedule, x_t, index, num_steps, substeps)
    landed = alpha[1:] * goal + sigma[1:] * (x_t - alpha[:-1] * goal) / sigma[:-1]
    fine = schedule.grid(num_steps * substeps)
    for i in range(num_steps):  # the sampler's own steps between the same two times
        span = fine[i * substeps : (i + 1) * substeps + 1]
        if i < num_steps - 1:
            beyond = torch.cat([span, span.new_zeros(1)])  # the last entry stands for clean data: watch the one before
            seen: list[torch.Tensor] = []
            ddim(exact(schedule), schedule, x_t[i : i + 1], num_steps=substeps + 1, grid=lambda _: beyond, on_step=lambda _, x, __: seen.append(x))
            expected = seen[substeps - 1]
        else:
            expected = ddim(exact(schedule), schedule, x_t[i : i + 1], num_steps=substeps, grid=lambda _: span)
        torch.testing.assert_close(landed[i : i + 1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_many_steps_of_an_exact_teacher_follow_the_flow_of_gaussian_data(schedule) -> None:
    """x keeps its place among the standard deviations: (x - alpha MEAN) / sqrt(alpha² STD² + sigma²) is constant."""
    num_steps, substeps = 2, 2000
    alpha, sigma = scales(schedule, schedule.grid(num_steps))
    spread = (alpha**2 * STD**2 + sigma**2).sqrt()
    place = torch.tensor([[-1.5, 0.2, 2.0]] * num_steps, dtype=torch.float64)
    x_t = alpha[:-1] * MEAN + place * spread[:-1]
    goal = few_step_target(exact(schedule), schedule, x_t, torch.arange(num_steps), num_steps, substeps)
    landed = alpha[1:] * goal + sigma[1:] * (x_t - alpha[:-1] * goal) / sigma[:-1]
    torch.testing.assert_close(landed, alpha[1:] * MEAN + place * spread[1:], rtol=0, atol=3e-3)


def test_a_single_substep_asks_for_the_teachers_own_estimate() -> None:
    schedule, x_t, index = CosineSchedule(), torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 4])
    t = schedule.grid(5)[index]
    torch.testing.assert_close(few_step_target(exact(schedule), schedule, x_t, index, 5, 1), exact(schedule)(x_t, t), rtol=0, atol=1e-9)


def test_grids_that_do_not_meet_are_told() -> None:
    assert aligned(CosineSchedule(), 8, 4) and aligned(RectifiedFlowSchedule(), 3, 5)
    assert not aligned(KarrasSchedule(), 8, 4) and aligned(KarrasSchedule(), 8, 1)
