from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from objectives.elbo import (
    active_units,
    free_bits,
    gaussian_kl,
    kl_warmup,
    log_normal,
    mutual_information,
    reparameterise,
)


def posteriors(n=50, d=3, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, log_var, eps = torch.randn(3, n, d, dtype=torch.float64, generator=generator)
    mean = spread * mean
    return mean, log_var, reparameterise(mean, log_var, eps)


def test_kl_against_torch():
    mean, log_var, _ = posteriors()
    wanted = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_var), wanted, rtol=1e-10, atol=1e-12)


def test_kl_near_the_prior_keeps_its_digits_in_float32():
    assert gaussian_kl(torch.zeros(1), torch.zeros(1)) == 0
    tiny = gaussian_kl(torch.zeros(1), torch.tensor([0.01]))
    assert tiny.item() == pytest.approx((math.expm1(0.01) - 0.01) / 2, rel=1e-4)
    assert (gaussian_kl(torch.zeros(1000), torch.randn(1000) * 1e-3) >= 0).all()


def test_kl_gradients():
    mean, log_var, _ = posteriors(4)
    assert torch.autograd.gradcheck(gaussian_kl, (mean.requires_grad_(), log_var.requires_grad_()))


def test_reparameterised_gradients_are_those_of_the_expectation():
    """E z^2 = mean^2 + var has gradients 2 mean and var in (mean, log var); odd noise averages out exactly."""
    eps = torch.randn(10_000, 1, dtype=torch.float64)
    eps = torch.cat([eps, -eps]) / eps.square().mean().sqrt()
    mean, log_var = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.7, -0.4))
    reparameterise(mean, log_var, eps).square().mean().backward()
    torch.testing.assert_close(mean.grad, 2 * mean.detach())
    torch.testing.assert_close(log_var.grad, log_var.detach().exp())


def test_log_normal_against_torch():
    mean, log_var, z = posteriors()
    torch.testing.assert_close(log_normal(z, mean, log_var), Normal(mean, (log_var / 2).exp()).log_prob(z).sum(-1))
    torch.testing.assert_close(log_normal(z), Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(log_normal(z, 0.5, math.log(4)), Normal(0.5, 2.0).log_prob(z).sum(-1))


def test_free_bits_hold_each_dimension_of_the_batchs_mean():
    kl = torch.tensor([[0.0, 2.0], [0.8, 4.0]], requires_grad=True)
    value = free_bits(kl, 0.5)
    assert value.item() == pytest.approx(0.5 + 3.0)
    value.backward()
    assert kl.grad.tolist() == [[0.0, 0.5], [0.0, 0.5]]  # the first has nothing to gain
    assert free_bits(kl, 0.0).item() == pytest.approx(kl.sum(-1).mean().item())
    assert free_bits(kl.expand(7, 2, 2), 0.5).item() == pytest.approx(3.5)


def test_warm_up():
    assert [kl_warmup(step, 10) for step in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert kl_warmup(0, 0) == 1.0


def test_active_units():
    mean = torch.zeros(100, 3)
    mean[:, 0], mean[:, 1] = torch.randn(100), 5.0 + 1e-3 * torch.randn(100)
    assert active_units(mean).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="active units of 1 images"):
        active_units(mean[:1])


def test_information_of_posteriors_that_do_not_overlap_is_log_n():
    mean, log_var, _ = posteriors(40, spread=1e3)
    log_var = log_var - 5
    z = reparameterise(mean, log_var, torch.randn_like(mean))
    assert mutual_information(mean, log_var, z, chunk=7) == pytest.approx(math.log(40), abs=1e-6)


def test_equal_posteriors_have_no_information():
    mean, log_var, _ = posteriors(1)
    mean, log_var = mean.expand(30, -1), log_var.expand(30, -1)
    z = reparameterise(mean, log_var, torch.randn(30, 3, dtype=torch.float64))
    assert mutual_information(mean, log_var, z) == pytest.approx(0, abs=1e-9)


def test_information_against_integration():
    """Three posteriors on a line; their mutual information by a sum over a fine grid."""
    mean = torch.tensor([-1.0, 0.2, 0.9], dtype=torch.float64)
    log_var = torch.tensor([-1.0, 0.3, -2.0], dtype=torch.float64)
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    each = Normal(mean[:, None], (log_var / 2).exp()[:, None]).log_prob(x)
    mixture = each.logsumexp(0) - math.log(3)
    exact = ((each.exp() * (each - mixture)).sum(1) * (x[1] - x[0])).mean().item()
    copies = 1000  # equal index sets, many draws: the same quantity
    many = [t.repeat(copies)[:, None] for t in (mean, log_var)]
    eps = torch.randn(3 * copies, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert mutual_information(*many, reparameterise(*many, eps)) == pytest.approx(exact, abs=0.05)


def test_a_unit_is_active_by_the_variance_of_its_means():
    """Standard deviations 0.09 and 0.15 are on both sides of a variance of 0.01."""
    unit = torch.tensor([1.0, -1.0]).repeat(500)
    mean = torch.stack([0.09 * unit, 0.15 * unit, 3 + 0.09 * unit], 1)
    assert active_units(mean).tolist() == [False, True, False]
    assert active_units(mean, threshold=0.005).tolist() == [True, True, True]
