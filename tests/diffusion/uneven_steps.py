"""One run of a sampler on an uneven grid, for tests that work every step out by hand."""

from __future__ import annotations

import torch

from tests.diffusion.oracles import SCHEDULES

TIMES = torch.tensor([1.0, 0.8, 0.35, 0.2, 0.0], dtype=torch.float64)


def by_place_and_time(x, t):
    """A denoiser that depends on place and time."""
    return 0.3 * x + 0.1 + 0.2 * t[:, None]


def scales(t: float) -> tuple[float, float]:
    if t == 0:
        return 1.0, 0.0  # the last step stands for clean data
    t = torch.tensor(t, dtype=torch.float64)
    return SCHEDULES["cosine"].alpha(t).item(), SCHEDULES["cosine"].sigma(t).item()


def start() -> torch.Tensor:
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(sampler, x, **options):
    grid = lambda n: TIMES  # noqa: E731
    return sampler(by_place_and_time, SCHEDULES["cosine"], x, num_steps=4, grid=grid, **options)
