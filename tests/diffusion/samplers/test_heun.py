"""EDM's stochastic sampler; test_samplers.py holds what all samplers share."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.samplers import edm, heun
from diffusion.samplers.steps import steps
from tests.diffusion.oracles import SCHEDULES, mixture, noise_quantiles


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("options", [{"s_churn": 0.0}, {"s_min": 5.0, "s_max": 4.0}])
def test_without_churn_it_is_heun(name, options):
    schedule = SCHEDULES[name]
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    plain = heun(oracle.denoise, schedule, x_T, num_steps=7)
    assert torch.equal(edm(oracle.denoise, schedule, x_T, num_steps=7, **options), plain)


@pytest.mark.parametrize("s_churn", [10.0, 40.0])
def test_edm_is_algorithm_2(s_churn):
    """Against Karras et al. 2022, algorithm 2 written in their variables; 40 meets the limit sqrt(2) - 1, 10 does not."""
    schedule, n, s_min, s_max, s_noise = SCHEDULES["karras"], 18, 0.05, 50.0, 1.003
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    sigmas = [*schedule.sigma(schedule.grid(n)[:-1]).tolist(), 0.0]
    generator = torch.Generator().manual_seed(3)

    def d(x, sigma):
        t = schedule.t_from_log_snr(torch.full((9,), -2 * math.log(sigma), dtype=torch.float64))
        return (x - oracle.denoise(x, t)) / sigma

    x = x_T
    for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_min <= sigma <= s_max else 0.0
        sigma_hat = sigma * (1 + gamma)
        if gamma:
            z = torch.randn(9, 1, dtype=torch.float64, generator=generator)
            x = x + math.sqrt(sigma_hat**2 - sigma**2) * s_noise * z
        slope = d(x, sigma_hat)
        x_next = x + (sigma_next - sigma_hat) * slope
        if sigma_next > 0:
            x_next = x + (sigma_next - sigma_hat) * (slope + d(x_next, sigma_next)) / 2
        x = x_next
    ours = edm(
        oracle.denoise, schedule, x_T, num_steps=n, s_churn=s_churn, s_min=s_min, s_max=s_max, s_noise=s_noise,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_churn_raises_the_noise_along_the_forward_process(name):
    """The noised x keeps the marginal: what a denoiser sees at the higher time is alpha x_0 + sigma eps of that time."""
    schedule, seen = SCHEDULES[name], []

    def denoise(x_t, t):
        seen.append((t[0].clone(), x_t.clone()))
        return torch.full_like(x_t, 0.7)  # data at one point: every x_t after the first is 0.7 alpha + sigma N(0, 1)

    x_T = torch.randn(40_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one = torch.ones((), dtype=torch.float64)
    x_T = 0.7 * schedule.alpha(one) + schedule.sigma(one) * x_T
    edm(denoise, schedule, x_T, num_steps=6, s_noise=1.0, s_min=0.0, s_max=math.inf,
        generator=torch.Generator().manual_seed(2))
    grid = schedule.grid(6)[:-1].tolist()
    off_grid = [t.item() for t, _ in seen if t.item() not in grid]
    assert len(off_grid) >= 4
    for t, x_t in seen:
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        assert abs(x_t.mean() - 0.7 * alpha) < 5 * sigma / 200
        assert abs(x_t.std() / sigma - 1) < 5 / (2 * 40_000) ** 0.5


def test_churn_stops_at_the_noisiest_time_of_the_schedule():
    schedule, times = SCHEDULES["karras"], []

    def denoise(x_t, t):
        times.append(t[0].item())
        return 0 * x_t

    edm(denoise, schedule, noise_quantiles(schedule), num_steps=5, s_max=math.inf)
    assert times[0] == 1.0 and max(times) == 1.0
    first = next(steps(schedule, 5, None, torch.zeros(1)))
    assert schedule.sigma(torch.tensor(times[2])).item() == pytest.approx(
        schedule.sigma(schedule.grid(5)[1]).item() * math.sqrt(2), rel=1e-5
    )
    assert first.sigma == pytest.approx(80)


def test_bad_churn():
    with pytest.raises(ValueError, match="s_churn=-1"):
        edm(lambda x, t: x, SCHEDULES["karras"], torch.zeros(1, 1), num_steps=2, s_churn=-1)
