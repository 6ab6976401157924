from __future__ import annotations

import math

import pytest
import torch

from diffusion.process import add_noise, expand, posterior, step_variance
from tests.diffusion.oracles import SCHEDULES


def test_expand_broadcasts_over_trailing_dimensions():
    c = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert expand(c, torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert expand(c, torch.zeros(2, 3)).dtype == torch.float32
    assert expand(c[0], torch.zeros(2, 3)).shape == (1, 1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 2, 4, 4)])
def test_add_noise(name, shape):
    schedule, t = SCHEDULES[name], torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    x_0, eps = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = add_noise(x_0, eps, t, schedule)
    for i in range(3):
        torch.testing.assert_close(x_t[i], schedule.alpha(t[i]) * x_0[i] + schedule.sigma(t[i]) * eps[i])


def scales(name, t):
    t = torch.tensor(t, dtype=torch.float64)
    return SCHEDULES[name].alpha(t).item(), SCHEDULES[name].sigma(t).item()


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_bayes(name):
    """Precision-weighted product of q(x_t | x_u) and q(x_u | x_0), and consistency with the marginals."""
    (alpha_t, sigma_t), (alpha_u, sigma_u) = scales(name, 0.7), scales(name, 0.6)
    ratio, added = alpha_t / alpha_u, step_variance(alpha_t, sigma_t, alpha_u, sigma_u)
    precision = ratio**2 / added + 1 / sigma_u**2
    c_x_t, c_x_0, variance = posterior(alpha_t, sigma_t, alpha_u, sigma_u)
    assert variance == pytest.approx(1 / precision, rel=1e-9)
    assert c_x_t == pytest.approx(ratio / added / precision, rel=1e-9)
    assert c_x_0 == pytest.approx(alpha_u / sigma_u**2 / precision, rel=1e-9)
    assert c_x_t * alpha_t + c_x_0 == pytest.approx(alpha_u, rel=1e-9)
    assert c_x_t**2 * sigma_t**2 + variance == pytest.approx(sigma_u**2, rel=1e-9)


def test_posterior_is_ddpm_on_the_table():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    k = 499  # 1-based step 500
    c_x_t, c_x_0, variance = posterior(*scales("linear", 0.5), *scales("linear", 0.499))
    b, bar, bar_before = beta[k].item(), alpha_bar[k].item(), alpha_bar[k - 1].item()
    assert c_x_0 == pytest.approx(math.sqrt(bar_before) * b / (1 - bar), rel=1e-9)
    assert c_x_t == pytest.approx(math.sqrt(1 - b) * (1 - bar_before) / (1 - bar), rel=1e-9)
    assert variance == pytest.approx((1 - bar_before) / (1 - bar) * b, rel=1e-9)


@pytest.mark.parametrize("name", ["cosine", "linear", "cosine_shifted"])
def test_variational_bound_is_tight_for_gaussian_data(name):
    """With exact reverse kernels the bound is the entropy of the data plus KL(q(x_T) || N(0, 1)), whatever the steps."""
    mu, s, num_steps = 0.3, 0.6, 50
    bound = 0.0
    for i in range(num_steps, 1, -1):
        t, u = scales(name, i / num_steps), scales(name, (i - 1) / num_steps)
        _, c_x_0, variance = posterior(*t, *u)
        of_x_0 = s**2 * t[1] ** 2 / (t[0] ** 2 * s**2 + t[1] ** 2)  # var(x_0 | x_t)
        bound += 0.5 * math.log((variance + c_x_0**2 * of_x_0) / variance)
    alpha, sigma = scales(name, 1 / num_steps)
    bound += 0.5 * math.log(2 * math.pi * math.e * s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2))
    alpha, sigma = scales(name, 1.0)
    bound += 0.5 * (sigma**2 + alpha**2 * (s**2 + mu**2) - 1 - math.log(sigma**2))
    total = alpha**2 * s**2 + sigma**2
    exact = 0.5 * math.log(2 * math.pi * math.e * s**2) + 0.5 * (total + alpha**2 * mu**2 - 1 - math.log(total))
    assert bound == pytest.approx(exact, abs=1e-10)
