"""UniPC, and dpmpp_2m by hand; test_samplers.py holds what all samplers share."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from diffusion.samplers import ddim, ddpm, dpmpp_2m, unipc
from tests.diffusion.oracles import SCHEDULES, fitted_order, gaussian, mixture, noise_quantiles
from tests.diffusion.test_against_diffusers import LINEAR, TABLE, step_to_t, walk
from tests.diffusion.test_samplers import LOG_SNR_END, errors, log_snr_grid
from tests.diffusion.uneven_steps import TIMES, by_place_and_time, run, scales, start


@pytest.mark.parametrize("data", [gaussian, mixture])
@pytest.mark.parametrize("name", ["cosine", "linear", "karras"])
@pytest.mark.parametrize("p, corrector", [(1, True), (2, False), (2, True)])
def test_order_of_convergence(p, corrector, name, data):
    """p without and p + 1 with the corrector, on steps even in log_snr."""
    schedule, num_steps = SCHEDULES[name], [48, 96, 192]
    sampler = functools.partial(unipc, order=p, corrector=corrector)
    found = errors(sampler, schedule, data(schedule), num_steps, log_snr_grid(schedule, LOG_SNR_END[name]))
    assert abs(fitted_order(num_steps, found) - p - corrector) < 0.4, found


@pytest.mark.parametrize("corrector", [False, True])
def test_order_of_three_points(corrector):
    """On the cosine schedule, the one on which the last step's own error, sigma(t)², lies below that of the solver."""
    schedule, num_steps = SCHEDULES["cosine"], [48, 96, 192]
    sampler = functools.partial(unipc, order=3, corrector=corrector)
    found = errors(sampler, schedule, mixture(schedule), num_steps, log_snr_grid(schedule, 20.0))
    assert abs(fitted_order(num_steps, found) - 3 - corrector) < 0.25, found


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("p, same", [(1, ddim), (2, dpmpp_2m)])
def test_without_corrector_it_is_ddim_and_dpmpp_2m(p, same, name):
    schedule = SCHEDULES[name]
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    ours = unipc(oracle.denoise, schedule, x_T, num_steps=9, order=p, corrector=False)
    torch.testing.assert_close(ours, same(oracle.denoise, schedule, x_T, num_steps=9), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_dpmpp_2m_with_noise_is_ddpm_where_it_is_of_first_order(name):
    schedule = SCHEDULES[name]
    oracle, x_T = mixture(schedule), noise_quantiles(schedule)
    found = [
        sampler(oracle.denoise, schedule, x_T, num_steps=2, generator=torch.Generator().manual_seed(1))
        for sampler in (ddpm, functools.partial(dpmpp_2m, eta=1.0))
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_with_noise_the_spread_of_gaussian_data_comes_out_and_sooner_than_by_ddpm(eta):
    """Noise is as good as none for an exact denoiser: only the error of the steps is left, and that is of second order."""
    schedule = SCHEDULES["cosine"]
    oracle, x_T = gaussian(schedule, 0.3, 0.6), torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0)).double()
    spread = {}
    for num_steps in (8, 32):
        for sampler in (functools.partial(dpmpp_2m, eta=eta), functools.partial(ddim, eta=eta)):
            x_0 = sampler(oracle.denoise, schedule, x_T, num_steps=num_steps, generator=torch.Generator().manual_seed(1))
            assert x_0.mean().item() == pytest.approx(0.3, abs=0.01)
            spread[sampler.func, num_steps] = abs(x_0.std().item() - 0.6)
    for num_steps in (8, 32):
        assert spread[dpmpp_2m, num_steps] < 0.6 * spread[ddim, num_steps], spread


@pytest.mark.parametrize("num_steps", [5, 10, 20, 100])
@pytest.mark.parametrize("order", [1, 2])
def test_against_diffusers(order, num_steps):
    """Order 3 differs by design: they go down to order 2 before the last step, which they must."""
    x_T = noise_quantiles(LINEAR)
    scheduler = UniPCMultistepScheduler(solver_order=order, solver_type="bh2", final_sigmas_type="zero", **TABLE)
    theirs = walk(scheduler, num_steps, LINEAR, x_T, step_to_t)
    ours = unipc(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=num_steps, order=order)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_dpmpp_2m_on_uneven_steps_by_hand():
    """Lu et al. 2022, algorithm 2; first and last step of first order."""
    x, previous, h_previous = start(), None, 0.0
    for t, u in zip(TIMES.tolist(), TIMES.tolist()[1:]):
        (a, s), (a_u, s_u) = scales(t), scales(u)
        x_0_hat = by_place_and_time(x, torch.full((5,), t, dtype=torch.float64))
        if u == 0:
            x = x_0_hat
            break
        h = math.log(a_u / s_u) - math.log(a / s)
        estimate = x_0_hat
        if previous is not None:
            r = h_previous / h
            estimate = (1 + 1 / (2 * r)) * x_0_hat - 1 / (2 * r) * previous
        x = s_u / s * x - a_u * (math.exp(-h) - 1) * estimate
        previous, h_previous = x_0_hat, h
    torch.testing.assert_close(run(dpmpp_2m, start()), x, rtol=1e-7, atol=1e-7)


def test_third_order_on_uneven_steps_by_hand():
    """The quadratic through three estimates, integrated exactly against exp(log(alpha / sigma))."""
    schedule = SCHEDULES["cosine"]
    t = torch.tensor([1.0, 0.8, 0.5, 0.35], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    lam = (alpha / sigma).log()
    values = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    grid = lambda n: torch.cat([t, torch.zeros(1)])  # noqa: E731
    seen = []
    estimates = iter([*values, values[0]])
    unipc(lambda x, t: next(estimates) + 0 * x, schedule, torch.zeros(1, 1, dtype=torch.float64), num_steps=4, grid=grid,
          order=3, corrector=False, on_step=lambda i, x, x_0_hat: seen.append(x.item()))
    nodes = torch.linspace(0, 1, 100_001, dtype=torch.float64) * (lam[3] - lam[2]) + lam[2]
    quadratic = sum(
        values[i] * math.prod((nodes - lam[j]) / (lam[i] - lam[j]) for j in range(3) if j != i) for i in range(3)
    )
    exact = sigma[3] / sigma[2] * seen[1] + sigma[3] * torch.trapezoid(nodes.exp() * quadratic, nodes)
    assert seen[2] == pytest.approx(exact.item(), abs=1e-8)


def test_unknown_order():
    with pytest.raises(ValueError, match="order=4"):
        unipc(lambda x, t: x, SCHEDULES["linear"], torch.zeros(1, 1), num_steps=2, order=4)
