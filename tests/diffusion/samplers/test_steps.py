from __future__ import annotations

import pytest
import torch

from diffusion.samplers.steps import report, steps, times_of
from tests.diffusion.oracles import SCHEDULES


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_follow_the_grid_and_end_at_clean_data(name):
    schedule = SCHEDULES[name]
    found, grid = list(steps(schedule, 4, None, torch.zeros(2, dtype=torch.float64))), schedule.grid(4)
    assert [s.index for s in found] == [0, 1, 2, 3]
    assert [s.t for s in found] == grid[:-1].tolist() and [s.t_u for s in found[:-1]] == grid[1:-1].tolist()
    assert found[-1].t_u is None and (found[-1].alpha_u, found[-1].sigma_u) == (1.0, 0.0)
    for step in found:
        t = torch.tensor(step.t, dtype=torch.float64)
        assert (step.alpha, step.sigma) == (schedule.alpha(t).item(), schedule.sigma(t).item())
    assert [(s.alpha, s.sigma) for s in found[1:]] == [(s.alpha_u, s.sigma_u) for s in found[:-1]]


def test_scales_belong_to_the_times_that_the_denoiser_sees():
    """A time rounded to float32 has other scales than the one of the grid, and the network is told the rounded one."""
    step = list(steps(SCHEDULES["karras"], 7, None, torch.zeros(2)))[2]
    rounded = times_of(step.t, torch.zeros(3, 1))
    assert rounded.dtype == torch.float32 and rounded.shape == (3,) and (rounded.double() == step.t).all()
    assert step.sigma == SCHEDULES["karras"].sigma(rounded.double())[0].item()


def test_a_grid_of_the_call_takes_the_place_of_the_schedules():
    found = list(steps(SCHEDULES["cosine"], 2, lambda n: torch.tensor([0.8, 0.3, 0.0]), torch.zeros(1, dtype=torch.float64)))
    assert [s.t for s in found] == pytest.approx([0.8, 0.3]) and found[0].t_u == pytest.approx(0.3) and found[1].t_u is None


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps=0"):
        list(steps(SCHEDULES["linear"], 0, None, torch.zeros(1)))


def test_report_tells_who_watches():
    step, told = next(steps(SCHEDULES["linear"], 3, None, torch.zeros(1))), []
    report(lambda *seen: told.append(seen), step, "x", "x_0_hat")
    report(None, step, "x", "x_0_hat")
    assert told == [(0, "x", "x_0_hat")]
