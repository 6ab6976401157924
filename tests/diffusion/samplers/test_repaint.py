"""What repaint does step by step; tests/diffusion/test_inpainting.py judges what comes out."""

from __future__ import annotations

import pytest
import torch

from diffusion.samplers import repaint
from tests.diffusion.oracles import SCHEDULES


@pytest.mark.parametrize("name", ["cosine", "karras", "rectified_flow"])
def test_times_and_reports(name):
    """Blocks of two steps, each run three times; the last block is the one step that is left."""
    schedule, times, told = SCHEDULES[name], [], []

    def denoise(x_t, t):
        times.append(t[0].item())
        return 0 * x_t

    repaint(denoise, schedule, torch.ones(1, 1, dtype=torch.float64), num_steps=5, resamplings=3, jump_steps=2,
            on_step=lambda i, x, x_0_hat: told.append(i))
    t = schedule.grid(5).tolist()
    assert times == t[0:2] * 3 + t[2:4] * 3 + t[4:5] * 3 and told == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", SCHEDULES)
def test_going_back_keeps_the_marginals(name):
    """Data at one point: whatever the jumps, x_t is alpha c + sigma N(0, 1)."""
    schedule, n, seen = SCHEDULES[name], 40_000, []

    def denoise(x_t, t):
        seen.append((t[0].clone(), x_t.clone()))
        return torch.full_like(x_t, 0.7)

    one = torch.ones((), dtype=torch.float64)
    x_T = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_T = 0.7 * schedule.alpha(one) + schedule.sigma(one) * x_T
    repaint(denoise, schedule, x_T, num_steps=6, resamplings=2, jump_steps=2, generator=torch.Generator().manual_seed(2))
    assert len(seen) == 12
    for t, x_t in seen:
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        assert abs(x_t.mean() - 0.7 * alpha) < 5 * sigma / n**0.5
        assert abs(x_t.std() / sigma - 1) < 5 / (2 * n) ** 0.5
