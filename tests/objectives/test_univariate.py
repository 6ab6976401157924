from __future__ import annotations

import math

import pytest
import torch

from objectives.univariate import (
    LOG_SCALE_RANGE, draw_level, inside_unit_interval, langevin, level_mean, levels, log_level, log_sinhc,
)  # fmt: skip

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
MEANS = (-1e4, -3.0, -1.0, -0.3, 0.0, 1 / 255, 0.77, 1.0, 50.0)
LOG_SCALES = (-30.0, -7.0, -4.5, -2.0, 0.0, 3.0, 40.0)


def grid(dtype=torch.float64, requires_grad=False):
    """Every mean with every log scale, (63, 1)."""
    pairs = torch.cartesian_prod(torch.tensor(MEANS, dtype=dtype), torch.tensor(LOG_SCALES, dtype=dtype))
    return [column[:, None].clone().requires_grad_(requires_grad) for column in pairs.T]


def test_probabilities_of_the_levels_sum_to_one():
    mean, log_scale = grid()
    total = log_level(LEVELS, mean, log_scale).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


def test_level_is_the_difference_of_distribution_functions():
    mean, log_scale = torch.tensor(0.1, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    edges = (torch.arange(1, 256, dtype=torch.float64) - 0.5) / 127.5 - 1
    below = torch.cat([torch.zeros(1), torch.sigmoid((edges - mean) / log_scale.exp()), torch.ones(1)])
    torch.testing.assert_close(log_level(LEVELS, mean, log_scale).exp(), below.diff(), atol=1e-15, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_at_extremes_have_finite_values_and_gradients(dtype):
    mean, log_scale = grid(dtype, requires_grad=True)
    value = log_level(LEVELS.to(dtype), mean, log_scale)
    value.sum().backward()
    assert value.isfinite().all() and mean.grad.isfinite().all() and log_scale.grad.isfinite().all()
    assert (value <= 0).all()


def test_float32_levels_agree_with_float64_far_in_the_tails():
    """The plain difference of sigmoids is 0 there in float32."""
    mean, log_scale = torch.tensor(0.0), torch.tensor(-5.0)
    exact = log_level(LEVELS, mean.double(), log_scale.double())
    assert exact.min() < -100
    torch.testing.assert_close(log_level(LEVELS.float(), mean, log_scale).double(), exact, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_level():
    mean, log_scale = (t.requires_grad_() for t in torch.randn(2, 30, dtype=torch.float64))
    image = LEVELS[torch.randint(256, (30,))]
    image[:2] = torch.tensor([-1.0, 1.0])
    assert torch.autograd.gradcheck(lambda m, s: log_level(image, m, s), (mean, log_scale))


def test_mean_of_levels_is_their_expectation_to_half_a_level():
    mean, log_scale = grid()
    expected = (log_level(LEVELS, mean, log_scale).exp() * LEVELS).sum(1, keepdim=True)
    got = level_mean(mean, log_scale)
    assert (got - expected).abs().max() <= 1 / 255 + 1e-9
    smooth = (log_scale >= -4.5).squeeze(1)  # a scale above a level and a half: the rounding averages out
    torch.testing.assert_close(got[smooth], expected[smooth], atol=3e-4, rtol=0)


@pytest.mark.parametrize(("mean", "log_scale"), [(-0.98, -3.0), (0.2, -5.0), (0.9, 0.0), (0.5, -9.0)])
def test_drawn_levels_have_their_probabilities(mean, log_scale):
    n = 200_000
    noise = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # quantiles: no chance
    mean, log_scale = torch.tensor(mean, dtype=torch.float64), torch.tensor(log_scale, dtype=torch.float64)
    image = draw_level(mean, log_scale, noise)
    assert torch.isin(image, LEVELS).all()
    drawn = levels(image).long().bincount(minlength=256) / n
    torch.testing.assert_close(drawn.double(), log_level(LEVELS, mean, log_scale).exp(), atol=2.1 / n, rtol=0)


def test_scale_is_limited():
    sharp = log_level(LEVELS[100], LEVELS[100], torch.tensor(-1e6, dtype=torch.float64))
    assert sharp.exp().item() == pytest.approx(math.tanh(math.exp(LOG_SCALE_RANGE) / 510), rel=1e-9)


def test_log_sinhc_and_langevin_against_their_definitions():
    u = torch.cat([torch.linspace(-20, 20, 401, dtype=torch.float64), torch.tensor([0.2499, 0.2501, 1e-3])])
    u = u[u != 0]
    torch.testing.assert_close(log_sinhc(u), (torch.sinh(u) / u).log(), atol=1e-13, rtol=1e-11)
    torch.testing.assert_close(langevin(u), 1 / torch.tanh(u) - 1 / u, atol=1e-12, rtol=0)
    assert log_sinhc(torch.zeros(1)) == 0 and langevin(torch.zeros(1)) == 0
    assert log_sinhc(torch.tensor(1e30)).isfinite() and langevin(torch.tensor(-1e30)) == -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_langevin_is_the_gradient_of_log_sinhc(dtype):
    u = torch.cat([torch.logspace(-6, 4, 101, dtype=dtype), torch.tensor([0.0], dtype=dtype)])
    u = torch.cat([u, -u]).requires_grad_()
    log_sinhc(u).sum().backward()
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(u.grad, langevin(u.detach()), atol=tolerance, rtol=tolerance)


def test_noise_is_kept_off_its_ends():
    ends = inside_unit_interval(torch.tensor([0.0, 1.0]))
    assert torch.special.ndtri(ends).isfinite().all() and torch.logit(ends).isfinite().all()
