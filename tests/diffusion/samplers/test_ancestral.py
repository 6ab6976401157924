"""DDPM and DDIM step by step, and DDIM run backwards; test_samplers.py holds what all samplers share."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.samplers import ddim, ddim_invert, ddpm
from tests.diffusion.oracles import SCHEDULES, fitted_order, gaussian, mixture, noise_quantiles
from tests.diffusion.uneven_steps import TIMES, by_place_and_time, run, scales, start


def test_ddim_with_half_the_noise_by_hand():
    """Song et al. 2021, eqs. 12 and 16."""
    x, generator = start(), torch.Generator().manual_seed(2)
    for t, u in zip(TIMES.tolist(), TIMES.tolist()[1:]):
        (a, s), (a_u, s_u) = scales(t), scales(u)
        x_0_hat = by_place_and_time(x, torch.full((5,), t, dtype=torch.float64))
        g = 0.5 * s_u / s * math.sqrt(s**2 - (a / a_u) ** 2 * s_u**2)
        x = a_u * x_0_hat + math.sqrt(s_u**2 - g**2) * (x - a * x_0_hat) / s
        if u > 0:
            x = x + g * torch.randn(5, 3, dtype=torch.float64, generator=generator)
    found = run(ddim, start(), eta=0.5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_last_step_of_ddpm_is_the_estimate(variance):
    seen = []
    options = dict(variance=variance, generator=torch.Generator().manual_seed(0))
    x_0 = run(ddpm, start(), on_step=lambda i, x, x_0_hat: seen.append(x_0_hat), **options)
    torch.testing.assert_close(x_0, seen[-1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_one_is_ancestral(name):
    schedule = SCHEDULES[name]
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    ancestral = ddpm(oracle.denoise, schedule, x_T, num_steps=12, generator=torch.Generator().manual_seed(1))
    eta = ddim(oracle.denoise, schedule, x_T, num_steps=12, eta=1.0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(eta, ancestral, rtol=1e-7, atol=1e-7)


def test_small_and_large_variance_bracket_the_data():
    """Small is exact for a point, large for N(0, 1): the latter recovers unit variance whatever the number of steps."""
    for name in SCHEDULES:
        schedule, n = SCHEDULES[name], 40_000
        oracle, one = gaussian(schedule, 0.0, 1.0), torch.ones((), dtype=torch.float64)
        start = (schedule.alpha(one) ** 2 + schedule.sigma(one) ** 2).sqrt()
        x_T = start * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
        spread = {}
        for variance in ("small", "large"):
            seen = []  # x before the final step, which returns the posterior mean
            ddpm(oracle.denoise, schedule, x_T, num_steps=8, variance=variance,
                 generator=torch.Generator().manual_seed(9), on_step=lambda i, x, x_0_hat, seen=seen: seen.append(x))
            t = schedule.grid(8)[7]
            spread[variance] = (seen[6].var() / (schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)).item()
        assert spread["large"] == pytest.approx(1, abs=0.03), name
        assert spread["small"] < 0.97, name


def test_inversion_by_hand():
    """The first step solves denoise(alpha x, t) = x_0 by one iteration from x = x_0; the others are DDIM upward."""
    x_0 = start()
    times = TIMES.tolist()[::-1]
    a, _ = scales(times[1])
    x = a * (x_0 + (x_0 - by_place_and_time(a * x_0, torch.full((5,), times[1], dtype=torch.float64))))
    for u, t in zip(times[1:], times[2:]):
        (a_u, s_u), (a, s) = scales(u), scales(t)
        x_0_hat = by_place_and_time(x, torch.full((5,), u, dtype=torch.float64))
        x = a * x_0_hat + s * (x - a_u * x_0_hat) / s_u
    torch.testing.assert_close(run(ddim_invert, x_0), x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_inversion_and_back(name):
    schedule = SCHEDULES[name]
    oracle = mixture(schedule)
    x_0 = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    found, num_steps = [], [50, 100, 200, 400]
    for n in num_steps:
        x_T = ddim_invert(oracle.denoise, schedule, x_0, num_steps=n)
        found.append((ddim(oracle.denoise, schedule, x_T, num_steps=n) - x_0).square().mean().sqrt().item())
    assert found[-1] < 0.03 and fitted_order(num_steps, found) > 0.8, found
    torch.testing.assert_close(oracle.ode_map(x_T), x_0, rtol=0, atol=0.05)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_by_hand(variance):
    """Ho et al. 2020, eqs. 6 and 7, with beta_t or beta_t times the share of noise that is left at u."""
    x, generator = start(), torch.Generator().manual_seed(2)
    for t, u in zip(TIMES.tolist(), TIMES.tolist()[1:]):
        (a, s), (a_u, s_u) = scales(t), scales(u)
        x_0_hat = by_place_and_time(x, torch.full((5,), t, dtype=torch.float64))
        beta = 1 - (a / a_u) ** 2  # the cosine schedule preserves the variance
        x = a / a_u * s_u**2 / s**2 * x + a_u * beta / s**2 * x_0_hat
        if u > 0:
            std = math.sqrt(beta if variance == "large" else beta * s_u**2 / s**2)
            x = x + std * torch.randn(5, 3, dtype=torch.float64, generator=generator)
    found = run(ddpm, start(), variance=variance, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("v, same", [(0.0, "small"), (1.0, "large")])
def test_the_ends_of_a_learned_variance_are_small_and_large(v, same):
    def denoise(x, t):
        return by_place_and_time(x, t)

    denoise.with_variance = lambda x, t: (by_place_and_time(x, t), torch.full_like(x, v))
    options = dict(num_steps=4, grid=lambda n: TIMES)
    learned, fixed = (
        ddpm(denoise, SCHEDULES["cosine"], start(), variance=name, generator=torch.Generator().manual_seed(2), **options)
        for name in ("learned", same)
    )
    torch.testing.assert_close(learned, fixed, rtol=1e-7, atol=1e-7)


def test_variances_that_are_not_there_are_refused():
    schedule = SCHEDULES["cosine"]
    x_T = noise_quantiles(schedule)
    with pytest.raises(ValueError, match="unknown variance 'fixed_small'"):
        ddpm(lambda x, t: x, schedule, x_T, num_steps=2, variance="fixed_small")
    with pytest.raises(ValueError, match="needs a denoiser with_variance"):
        ddpm(lambda x, t: x, schedule, x_T, num_steps=2, variance="learned")
