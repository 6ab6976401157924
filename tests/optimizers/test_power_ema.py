from __future__ import annotations

import math

import pytest
import torch

from optimizers.power_ema import beta, gamma_of, inner_product, sigma_rel_of, solve


def average(weights, gamma):
    """Every running average (T, ...) of weights (T, ...)."""
    found, now = [], torch.zeros_like(weights[0])
    for step, w in enumerate(weights, 1):
        b = beta(step, gamma)
        now = b * now + (1 - b) * w
        found.append(now)
    return torch.stack(found)


@pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_lengths_of_the_paper(sigma_rel, gamma):
    assert gamma_of(sigma_rel) == pytest.approx(gamma, abs=0.005)
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.002, 0.01, 0.2, 0.28])
def test_length_and_exponent_are_inverse(sigma_rel):
    assert sigma_rel_of(gamma_of(sigma_rel)) == pytest.approx(sigma_rel, rel=1e-9)


def test_profile():
    """The weight of step s after t steps follows s^gamma, with mean and standard deviation of the definition."""
    n, gamma = 4000, gamma_of(0.1)
    profile = average(torch.eye(n, dtype=torch.float64), gamma)[-1]
    assert profile.sum().item() == pytest.approx(1) and beta(1, gamma) == 0
    s = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    mean = (profile * s).sum()
    assert mean.item() == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)
    assert (profile * (s - mean) ** 2).sum().sqrt().item() == pytest.approx(0.1, abs=1e-3)
    assert (profile[3000] / profile[1500]).item() == pytest.approx((3000.5 / 1500.5) ** gamma, rel=5e-3)


@pytest.mark.parametrize("t_a, gamma_a, t_b, gamma_b", [(1.0, 7.0, 1.0, 17.0), (0.5, 7.0, 1.0, 3.0), (1.0, 2.0, 0.25, 9.0)])
def test_inner_product_by_integration(t_a, gamma_a, t_b, gamma_b):
    s = torch.linspace(0, min(t_a, t_b), 200_001, dtype=torch.float64)
    product = math.prod((g + 1) * s**g / t ** (g + 1) for t, g in ((t_a, gamma_a), (t_b, gamma_b)))
    found = inner_product(*(torch.tensor(c, dtype=torch.float64) for c in (t_a, gamma_a, t_b, gamma_b)))
    assert found.item() == pytest.approx(torch.trapezoid(product, s).item(), rel=1e-6)


def test_another_length_comes_out_of_two_that_were_tracked():
    n, generator = 4096, torch.Generator().manual_seed(0)
    steps = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    noise = torch.randn(n, 6, dtype=torch.float64, generator=generator)
    weights = torch.log(steps) + torch.sin(steps / 300) + noise
    gammas, stored = [gamma_of(0.05), gamma_of(0.10)], list(range(n // 16, n + 1, n // 16))
    tracked = [average(weights, g) for g in gammas]
    everything = torch.stack([a[s - 1] for a in tracked for s in stored])
    listed = [g for g in gammas for _ in stored]
    for step, sigma_rel in ((n, 0.075), (n, 0.15), (n // 2, 0.06), (n, 0.05)):
        found = solve(stored * 2, listed, step, gamma_of(sigma_rel)) @ everything
        exact = average(weights[:step], gamma_of(sigma_rel))[-1]
        nearest = min((a[step - 1] - exact).abs().max().item() for a in tracked)
        error = (found - exact).abs().max().item()
        limit = {0.05: 1e-9, 0.075: 1e-3}.get(sigma_rel, 1e-2)  # 0.15 lies outside the two, 0.06 on half the snapshots
        assert error < limit, (step, sigma_rel, error)
        if sigma_rel != 0.05:
            assert error < nearest / 10, (step, sigma_rel, error, nearest)


def test_a_stored_average_is_found_again():
    weights = solve([100, 200, 300], [7.0, 7.0, 7.0], 200, 7.0)
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_bad_arguments():
    with pytest.raises(ValueError, match="sigma_rel=0.3"):
        gamma_of(0.3)
    with pytest.raises(ValueError, match="step=0"):
        beta(0, 7.0)
    with pytest.raises(ValueError, match="none reaches step 300"):
        solve([100, 200], [7.0, 7.0], 300, 7.0)
