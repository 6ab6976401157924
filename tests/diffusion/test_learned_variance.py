from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion.learned_variance import (
    gaussian_kl,
    hybrid_loss,
    interpolated_log_variance,
    reverse_variances,
    vlb_term,
)
from diffusion.process import posterior
from diffusion.samplers import ddpm
from tests.diffusion.oracles import SCHEDULES, gaussian, noise_quantiles

LINEAR = SCHEDULES["linear"]


def scales(name, *times):
    t = torch.tensor(times, dtype=torch.float64)
    return [c for i in range(len(times)) for c in (SCHEDULES[name].alpha(t[i]), SCHEDULES[name].sigma(t[i]))]


@pytest.mark.parametrize("step", [2, 10, 500, 999])
def test_variance_against_diffusers(step):
    scheduler = DDPMScheduler(beta_schedule="linear", variance_type="learned_range")
    scheduler.set_timesteps(1000)
    output = torch.linspace(-1, 1, 7)
    theirs = scheduler._get_variance(step - 1, predicted_variance=output)
    small, large = reverse_variances(*scales("linear", step / 1000, (step - 1) / 1000))
    ours = interpolated_log_variance((output.double() + 1) / 2, small, large)
    torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=2e-4)  # their tables are float32


@pytest.mark.parametrize("name", SCHEDULES)
def test_variances_are_right_for_a_point_and_for_standard_data(name):
    alpha_t, sigma_t, alpha_u, sigma_u = scales(name, 0.6, 0.5)
    small, large = reverse_variances(alpha_t, sigma_t, alpha_u, sigma_u)
    of_x_0 = sigma_t**2 / (alpha_t**2 + sigma_t**2)  # var(x_0 | x_t) of N(0, 1) data
    _, c_x_0, variance = posterior(alpha_t, sigma_t, alpha_u, sigma_u)
    torch.testing.assert_close(small, variance)
    torch.testing.assert_close(large, variance + c_x_0**2 * of_x_0)


def test_interpolation_ends_and_middle():
    v = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for small, large in ((0.04, 0.25), (torch.tensor(0.04), torch.tensor(0.25))):
        found = interpolated_log_variance(v, small, large).exp()
        torch.testing.assert_close(found, torch.tensor([0.04, 0.1, 0.25], dtype=torch.float64), rtol=1e-6, atol=0)


def test_kl_against_torch():
    a, b, c, d = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = torch.distributions.Normal(a, b.exp()), torch.distributions.Normal(c, d.exp())
    torch.testing.assert_close(gaussian_kl(a, 2 * b, c, 2 * d), torch.distributions.kl_divergence(p, q))


def term(x_0_hat, v):
    generator = torch.Generator().manual_seed(1)
    x_0, eps = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=generator)
    each = [c.expand(3) for c in scales("linear", 0.6, 0.599)]
    x_t = each[0][0] * x_0 + each[1][0] * eps
    return vlb_term(x_0, x_t, x_0_hat, v, *each), x_0, x_t, [c[0] for c in each]


def test_term_is_the_kl_summed_over_dimensions():
    x_0_hat, v = torch.full((3, 2, 4), 0.2, dtype=torch.float64), torch.full((3, 2, 4), 0.3, dtype=torch.float64)
    found, x_0, x_t, each = term(x_0_hat, v)
    c_x_t, c_x_0, small = posterior(*each)
    log_var = 0.3 * reverse_variances(*each)[1].log() + 0.7 * small.log()
    q = torch.distributions.Normal(c_x_t * x_t + c_x_0 * x_0, small.sqrt())
    p = torch.distributions.Normal(c_x_t * x_t + c_x_0 * x_0_hat, (log_var / 2).exp())
    torch.testing.assert_close(found, torch.distributions.kl_divergence(q, p).sum((1, 2)), rtol=1e-8, atol=1e-10)


def test_the_term_trains_the_variance_and_not_the_mean():
    x_0_hat = torch.zeros(3, 2, 4, dtype=torch.float64, requires_grad=True)
    v = torch.full((3, 2, 4), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(term(x_0_hat * 2, v)[0].sum(), v)
    assert (gradient != 0).all()
    hybrid_loss((x_0_hat - 1).square().flatten(1).mean(1), term(x_0_hat, v)[0], 8, 1000).sum().backward()
    torch.testing.assert_close(x_0_hat.grad, torch.full_like(x_0_hat, -2 / 8))  # of L_simple alone
    torch.testing.assert_close(v.grad, gradient / (8 * math.log(2)))  # 0.001 times 1000 steps


def test_the_best_v_of_gaussian_data_is_that_of_the_exact_reverse_kernel():
    """E over x_t of the term has its minimum at the variance of q(x_u | x_t): found by the gradient on v."""
    each, s = scales("linear", 0.6, 0.5), 0.6
    alpha_t, sigma_t = each[:2]
    _, c_x_0, small = posterior(*each)
    exact = small + c_x_0**2 * s**2 * sigma_t**2 / (alpha_t**2 * s**2 + sigma_t**2)
    small, large = reverse_variances(*each)
    best = ((exact.log() - small.log()) / (large.log() - small.log())).item()
    assert 0 < best < 1
    x_0, eps = torch.randn(2, 400_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x_0, n = 0.3 + s * x_0, len(x_0)
    x_t = alpha_t * x_0 + sigma_t * eps
    x_0_hat = gaussian(LINEAR).denoise(x_t, torch.full((n,), 0.6, dtype=torch.float64))
    values = []
    for v in (best - 0.05, best, best + 0.05):
        expanded = [c.expand(n) for c in each]
        values.append(vlb_term(x_0, x_t, x_0_hat, torch.full_like(x_0, v), *expanded).mean().item())
    assert values[1] < values[0] and values[1] < values[2]


class Learned:
    """The Gaussian oracle, with a constant v."""

    def __init__(self, v):
        self.v = v

    def __call__(self, x_t, t):
        raise AssertionError("the variance comes with the estimate: one evaluation is enough")

    def with_variance(self, x_t, t):
        return gaussian(LINEAR).denoise(x_t, t), torch.full_like(x_t, self.v)


@pytest.mark.parametrize("v, variance", [(0.0, "small"), (1.0, "large")])
def test_ancestral_sampling_with_learned_variance(v, variance):
    x_T = noise_quantiles(LINEAR)
    run = lambda denoise, variance: ddpm(  # noqa: E731
        denoise, LINEAR, x_T, num_steps=9, variance=variance, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(run(Learned(v), "learned"), run(gaussian(LINEAR).denoise, variance))
    assert not torch.equal(run(Learned(0.5), "learned"), run(Learned(0.0), "learned"))


def test_learned_variance_of_a_denoiser_without_one_is_refused():
    with pytest.raises(ValueError, match="variance='learned'"):
        ddpm(gaussian(LINEAR).denoise, LINEAR, noise_quantiles(LINEAR), num_steps=2, variance="learned")
