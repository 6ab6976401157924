from __future__ import annotations

import math

import pytest
import torch

from diffusion.likelihood import log_byte, standard_prior_std, variational_bound
from diffusion.process import posterior
from tests.diffusion.oracles import SCHEDULES, gaussian

MU, S = 0.3, 0.6
# Gauss-Hermite of three points: exact for the fourth powers and below that the bound holds.
NODES = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)], dtype=torch.float64)
WEIGHTS = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
X_0, EPS = (MU + S * NODES).repeat_interleave(3)[:, None], NODES.repeat(3)[:, None]
MEAN = (WEIGHTS[:, None] * WEIGHTS).flatten()
BYTES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def exact_log_variance(x_t, step):
    """Of q(x_u | x_t) for N(MU, S²) data: that of the kernel plus what is not known of x_0."""
    _, c_x_0, variance = posterior(step.alpha, step.sigma, step.alpha_u, step.sigma_u)
    of_x_0 = S**2 * step.sigma**2 / (step.alpha**2 * S**2 + step.sigma**2)
    return torch.full_like(x_t, math.log(variance + c_x_0**2 * of_x_0))


def bound(name, **options):
    schedule = SCHEDULES[name]
    options = {"num_steps": 20, "variance": exact_log_variance, "decoder": "density", "eps": lambda i: EPS} | options
    return variational_bound(gaussian(schedule).denoise, schedule, X_0, seeds=range(9), **options)


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_shifted", "karras", "rectified_flow"])
def test_bound_is_entropy_plus_kl_of_the_noise(name):
    """With the exact denoiser and variances, in expectation over x_0 and eps, which quadrature gives exactly."""
    found = bound(name)
    assert found.steps.shape == (9, 19) and found.prior.shape == found.decoder.shape == (9,)
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = SCHEDULES[name].alpha(one).item(), SCHEDULES[name].sigma(one).item()
    prior = standard_prior_std(SCHEDULES[name])
    total, mean = alpha**2 * S**2 + sigma**2, alpha * MU
    kl = 0.5 * (total / prior**2 + mean**2 / prior**2 - 1 - math.log(total / prior**2))
    exact = 0.5 * math.log(2 * math.pi * math.e * S**2) + kl
    assert (MEAN @ found.total).item() == pytest.approx(exact, abs=1e-10)


def test_standard_prior():
    assert standard_prior_std(SCHEDULES["karras"]) == pytest.approx(80)
    assert [standard_prior_std(SCHEDULES[n]) for n in ("linear", "cosine", "rectified_flow")] == [1, 1, 1]
    wider = bound("linear", prior_std=2.0)
    assert (MEAN @ wider.prior).item() == pytest.approx(math.log(2) - 0.5 + 0.5 / 4, abs=1e-4)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_fixed_variances_cost_what_they_must(variance):
    assert (MEAN @ bound("linear", variance=variance).total) > (MEAN @ bound("linear").total) + 1e-3


def test_subsampled_steps_are_unbiased_and_keyed():
    schedule, n = SCHEDULES["cosine"], 300
    x_0 = torch.full((n, 1), 0.4, dtype=torch.float64)
    options = dict(num_steps=8, variance=exact_log_variance, decoder="density", eps=None)
    run = lambda **more: variational_bound(gaussian(schedule).denoise, schedule, x_0, seeds=range(n), **options | more)  # noqa: E731
    full, part = run(), run(terms=3)
    assert part.steps.shape == (n, 3) and (part.weight.sum(1) == 7).all()
    assert [sorted(set(part.index[:, k].tolist())) for k in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    difference = part.steps.sum(1) - full.steps.sum(1)
    assert difference.std() > 0 and abs(difference.mean()) < 4 * difference.std() / n**0.5
    # The noise is of the seed and the step, so a drawn step has the value it has in the full bound.
    rows = torch.arange(n)
    torch.testing.assert_close(part.steps[:, 1] / part.weight[:, 1], full.steps[rows, part.index[:, 1]])


@pytest.mark.parametrize("mean, std", [(0.0, 0.3), (0.9, 0.01), (-1.4, 0.2), (0.3, 5.0), (0.001, 1e-3)])
def test_bytes_sum_to_one(mean, std):
    log_std = torch.full_like(BYTES, math.log(std))
    log_p = log_byte(BYTES, torch.full_like(BYTES, mean), log_std)
    assert torch.isfinite(log_p).all() and log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_bytes_against_the_distribution_function():
    normal = torch.distributions.Normal(torch.tensor(0.1, dtype=torch.float64), 0.3)
    log_p = log_byte(BYTES, torch.full_like(BYTES, 0.1), torch.full_like(BYTES, math.log(0.3)))
    inner = normal.cdf(BYTES + 1 / 255) - normal.cdf(BYTES - 1 / 255)
    torch.testing.assert_close(log_p[1:-1].exp(), inner[1:-1], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(log_p[0].exp(), normal.cdf(BYTES[0] + 1 / 255))
    torch.testing.assert_close(log_p[-1].exp(), 1 - normal.cdf(BYTES[-1] - 1 / 255))


def test_decoder_of_bytes():
    """A denoiser that knows the byte leaves the sure decision: no nats where the variance is far below a level."""
    schedule, x_0 = SCHEDULES["cosine"], BYTES[[3, 100]][:, None]
    sharp = lambda x_t, step: torch.full_like(x_t, 2 * math.log(1e-4))  # noqa: E731
    options = dict(num_steps=3, seeds=[1, 2], variance=sharp)
    found = variational_bound(lambda x_t, t: x_0 + 0 * x_t, schedule, x_0, **options)
    torch.testing.assert_close(found.decoder, torch.zeros(2, dtype=torch.float64))
    wrong = variational_bound(lambda x_t, t: x_0 + 0.1 + 0 * x_t, schedule, x_0, **options)
    assert (wrong.decoder > 1e5).all()


@pytest.mark.parametrize("v, variance", [(0.0, "small"), (1.0, "large")])
def test_learned_variance(v, variance):
    schedule = SCHEDULES["linear"]

    class Learned:
        def with_variance(self, x_t, t):
            return gaussian(schedule).denoise(x_t, t), torch.full_like(x_t, v)

    options = dict(num_steps=20, seeds=range(9), decoder="density", eps=lambda i: EPS)
    learned = variational_bound(Learned(), schedule, X_0, variance="learned", **options)
    fixed = variational_bound(gaussian(schedule).denoise, schedule, X_0, variance=variance, **options)
    torch.testing.assert_close(learned.steps, fixed.steps)
    assert torch.isfinite(learned.decoder).all()


def test_bad_arguments():
    for options in ({"variance": "middle"}, {"decoder": "logistic"}):
        with pytest.raises(ValueError, match="variance="):
            bound("linear", **options)
    with pytest.raises(ValueError, match="terms=20"):
        bound("linear", terms=20)
