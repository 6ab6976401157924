from __future__ import annotations

import math

import pytest
import torch

from diffusion.density import _angles, flow_log_density
from tests.diffusion.oracles import SCHEDULES, gaussian, mixture

X = torch.tensor([[-1.1, 0.2], [0.4, 0.9], [0.0, -0.3]], dtype=torch.float64)
ONE = torch.ones(1, dtype=torch.float64)


def terminal(oracle):
    """The exact log density of x_T."""
    return lambda x_T: oracle.log_prob(x_T, ONE).flatten(1).sum(1)


def clean(oracle, ratio):
    """log density of the data plus noise of std `ratio`."""
    variance = oracle.std**2 + ratio**2
    squared = (X.unsqueeze(-1) - oracle.mean) ** 2 / variance
    weights = oracle.log_weights.log_softmax(-1)
    return (weights - (squared + variance.log() + math.log(2 * math.pi)) / 2).logsumexp(-1).sum(1)


@pytest.mark.parametrize("name", ["linear", "cosine", "karras", "rectified_flow"])
def test_exact_with_the_exact_score_and_terminal_marginal(name):
    """To 1e-6 nats per dimension with 30 steps of RK4, and the noise is where the flow map says."""
    schedule = SCHEDULES[name]
    oracle = gaussian(schedule)
    found = flow_log_density(
        oracle.denoise, schedule, X, divergence="exact", method="rk4", num_steps=30, log_prior=terminal(oracle)
    )
    ratio = max(1e-3, 0.002 if name == "karras" else 0)
    torch.testing.assert_close(found.log_density, clean(oracle, ratio), rtol=0, atol=2e-6)
    torch.testing.assert_close(oracle.ode_map(found.x_T), X, rtol=0, atol=1e-4)
    assert found.evaluations == 120


@pytest.mark.parametrize("divergence", ["exact", "rademacher"])
def test_a_mixture_and_the_hutchinson_estimate_of_diagonal_jacobians(divergence):
    """Independent dimensions have a diagonal Jacobian, of which a probe of signs gives the trace itself."""
    schedule = SCHEDULES["rectified_flow"]
    oracle = mixture(schedule)
    found = flow_log_density(
        oracle.denoise, schedule, X, divergence=divergence, seeds=[1, 2, 3], method="rk4", num_steps=60,
        log_prior=terminal(oracle),
    )  # fmt: skip
    torch.testing.assert_close(found.log_density, clean(oracle, 1e-3), rtol=0, atol=2e-5)


def test_dopri5_and_the_standard_prior():
    pytest.importorskip("torchdiffeq")
    schedule = SCHEDULES["rectified_flow"]  # its x_T is N(0, 1) exactly
    oracle = gaussian(schedule)
    found = flow_log_density(oracle.denoise, schedule, X, divergence="exact", tolerance=1e-8)
    torch.testing.assert_close(found.log_density, clean(oracle, 1e-3), rtol=0, atol=2e-6)


def test_the_prior_of_variance_exploding_schedules():
    """N(0, 80²) in place of N(0.3, 80² + 0.36): the log densities of x_T differ, and nothing else does."""
    schedule = SCHEDULES["karras"]
    oracle, options = gaussian(schedule), dict(divergence="exact", method="rk4", num_steps=5)
    found = flow_log_density(oracle.denoise, schedule, X, **options)
    exact = flow_log_density(oracle.denoise, schedule, X, log_prior=terminal(oracle), **options)
    prior = torch.distributions.Normal(0.0, 80.0).log_prob(found.x_T).sum(1)
    torch.testing.assert_close(found.log_density - exact.log_density, prior - terminal(oracle)(found.x_T))


def correlated(x_t, t):
    """E[x_0 | x_t] of N(0, C) on the straight line."""
    covariance = torch.tensor([[0.36, 0.2], [0.2, 0.25]], dtype=torch.float64)
    s = t[0].item()
    total = (1 - s) ** 2 * covariance + s**2 * torch.eye(2, dtype=torch.float64)
    return x_t @ ((1 - s) * torch.linalg.solve(total, covariance))


@pytest.mark.parametrize("divergence", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_where_dimensions_depend_on_each_other(divergence):
    schedule, n = SCHEDULES["rectified_flow"], 4000
    options = dict(method="rk4", num_steps=12)
    exact = flow_log_density(correlated, schedule, X[:1], divergence="exact", **options).log_density
    many = flow_log_density(
        correlated, schedule, X[:1].expand(n, 2), divergence=divergence, seeds=range(n), **options
    ).log_density
    assert many.std() > 0.05 and abs(many.mean() - exact) < 4 * many.std() / n**0.5
    density = torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=torch.float64), torch.tensor([[0.36, 0.2], [0.2, 0.25]], dtype=torch.float64)
    )
    torch.testing.assert_close(exact, density.log_prob(X[:1]), rtol=0, atol=1e-3)


def test_an_estimate_is_a_function_of_the_seed():
    schedule = SCHEDULES["rectified_flow"]
    run = lambda seeds: flow_log_density(  # noqa: E731
        correlated, schedule, X[:1].expand(len(seeds), 2), seeds=seeds, method="rk4", num_steps=3, divergence="gaussian"
    ).log_density
    together = run([5, 6])
    assert together[0] != together[1]
    torch.testing.assert_close(run([6]), together[1:])


@pytest.mark.parametrize("name", ["linear", "cosine", "karras", "rectified_flow"])
def test_steps_even_in_log_snr_follow_fine_noise(name):
    """Data of standard deviation 0.2, to 2e-3 nats per dimension with 32 steps."""
    schedule = SCHEDULES[name]
    oracle = gaussian(schedule, std=0.2)
    found = flow_log_density(
        oracle.denoise, schedule, X, divergence="exact", method="rk4", num_steps=32, spacing="log_snr", log_prior=terminal(oracle)
    )
    ratio = max(1e-3, 0.002 if name == "karras" else 0)
    torch.testing.assert_close(found.log_density / 2, clean(oracle, ratio) / 2, rtol=2e-3, atol=2e-3)
    assert found.evaluations == 128


def test_steps_even_in_log_snr_bear_an_estimate_of_noise_that_is_a_little_wrong():
    """The estimate of x_0 then errs by 1 / alpha, without bound; steps even in the angle take that for the truth."""
    schedule = SCHEDULES["cosine"]
    oracle = gaussian(schedule)

    def denoise(x_t, t):
        alpha, sigma = (scale(t.double()).reshape(-1, 1) for scale in (schedule.alpha, schedule.sigma))
        return oracle.denoise(x_t, t) - sigma / alpha * 0.01 * torch.cos(x_t)  # eps off by 0.01 cos(x_t)

    def density(spacing, num_steps):
        options = dict(divergence="exact", method="rk4", log_prior=terminal(oracle))
        return flow_log_density(denoise, schedule, X, spacing=spacing, num_steps=num_steps, **options).log_density / 2

    wanted = density("log_snr", 300)
    assert 1e-2 < (wanted - clean(oracle, 1e-3) / 2).abs().max() < 0.3
    torch.testing.assert_close(density("log_snr", 32), wanted, rtol=0, atol=3e-3)
    assert (density("even", 32) - wanted).abs().max() > 0.3


@pytest.mark.parametrize("name", ["cosine", "rectified_flow"])
def test_the_path_goes_from_end_to_end_in_even_ratios(name):
    end = math.atan2(SCHEDULES[name].sigma(ONE).item(), SCHEDULES[name].alpha(ONE).item())
    path = _angles(1e-3, end, 10, "log_snr")
    assert len(path) == 11 and path[0] == pytest.approx(1e-3) and path[-1] == end
    ratios = [math.tan(b) / math.tan(a) for a, b in zip(path, path[1:-1])]
    assert ratios == pytest.approx([ratios[0]] * 9)
    assert _angles(1e-3, end, 1, "log_snr") == pytest.approx([1e-3, end])
    assert _angles(0.0, 1.0, 4, "even") == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_bad_arguments():
    with pytest.raises(ValueError, match="spacing='geometric'"):
        flow_log_density(correlated, SCHEDULES["rectified_flow"], X, seeds=[1, 2, 3], spacing="geometric")
    for options in ({"divergence": "skilling"}, {"method": "euler", "seeds": [1, 2, 3]}, {}):
        with pytest.raises(ValueError, match="divergence="):
            flow_log_density(correlated, SCHEDULES["rectified_flow"], X, **options)
