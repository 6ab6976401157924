from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from diffusion.parameterisation import TABLE, row
from diffusion.process import add_noise, expand
from diffusion.schedules import CosineSchedule, KarrasSchedule, RectifiedFlowSchedule
from diffusion.times import GridTimes, LogitNormalTimes, NormalLogSNR, UniformTimes
from diffusion.weighting import WEIGHTINGS, loss_weight
from tests.diffusion.oracles import SCHEDULES, target

L = torch.linspace(-12, 12, 49, dtype=torch.float64)
SNR = L.exp()
ALPHA, SIGMA = torch.sigmoid(L).sqrt(), torch.sigmoid(-L).sqrt()  # alpha² + sigma² = 1


def rows(kind, sigma_data=0.5):
    """A parameterisation at the noise levels L of a variance-preserving schedule."""
    return row(kind, ALPHA, SIGMA, sigma_data)


def error(kind, schedule, x_0, x_0_hat, eps, t):
    """Squared error in terms of `kind` of a wrong x_0_hat at a fixed x_t."""
    x_t = add_noise(x_0, eps, t, schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    eps_hat = (x_t - expand(alpha, x_t) * x_0_hat) / expand(sigma, x_t)
    return (target(kind, x_0_hat, eps_hat, alpha, sigma) - target(kind, x_0, eps, alpha, sigma)).square().sum(1)


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("name", SCHEDULES)
def test_errors_stand_in_the_ratio_of_the_row(kind, name):
    """At a fixed x_t the error of x_0_hat is c_out times that of F: what every weighting rests on."""
    schedule, t = SCHEDULES[name], torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x_0, x_0_hat, eps = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ratio = error(kind, schedule, x_0, x_0_hat, eps, t) / error("x_0", schedule, x_0, x_0_hat, eps, t)
    c_out = row(kind, schedule.alpha(t), schedule.sigma(t), 0.6).c_out
    torch.testing.assert_close(ratio, 1 / c_out**2, rtol=1e-8, atol=0)


def test_x_0_eps_v_are_one_snr_snr_plus_one():
    torch.testing.assert_close(rows("x_0").c_out ** -2, torch.ones_like(L))
    torch.testing.assert_close(rows("eps").c_out ** -2, SNR)
    torch.testing.assert_close(rows("v").c_out ** -2, SNR + 1)
    torch.testing.assert_close(rows("flow").c_out ** -2, (1 + SNR.sqrt()) ** 2)


@pytest.mark.parametrize("name", ["min_snr", "edm", "sigmoid"])
@pytest.mark.parametrize("kind", ["eps", "v", "flow", "edm"])
def test_named_weighting_does_not_depend_on_the_prediction(name, kind):
    kwargs = {"density": torch.ones_like(L)} if name == "sigmoid" else {}
    through_kind = loss_weight(name, rows(kind), L, **kwargs) / rows(kind).c_out ** 2
    torch.testing.assert_close(through_kind, loss_weight(name, rows("x_0"), L, **kwargs))


def test_min_snr():
    clipped = SNR.clamp(max=5)
    torch.testing.assert_close(loss_weight("min_snr", rows("x_0"), L), clipped)
    torch.testing.assert_close(loss_weight("min_snr", rows("eps"), L), clipped / SNR)
    torch.testing.assert_close(loss_weight("min_snr", rows("v"), L), clipped / (SNR + 1))


def test_min_snr_of_v_on_rectified_flow_is_1_where_signal_and_noise_are_equal():
    """There x_0's error counts once, and v's error is half of x_0's: alpha² + sigma² is 1/2, not 1."""
    t = torch.tensor([0.5], dtype=torch.float64)
    schedule = RectifiedFlowSchedule()
    coefficients = row("v", schedule.alpha(t), schedule.sigma(t))
    assert loss_weight("min_snr", coefficients, schedule.log_snr(t)).item() == pytest.approx(1.0, abs=1e-12)


def test_edm_is_lambda_of_sigma():
    sigma, sigma_data = (-L / 2).exp(), 0.6
    wanted = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    torch.testing.assert_close(loss_weight("edm", rows("x_0"), L, sigma_data=sigma_data), wanted)
    raw = loss_weight("edm", rows("edm", sigma_data), L, sigma_data=sigma_data)
    torch.testing.assert_close(raw, torch.ones_like(L))  # of EDM's own net every level counts the same


def test_uniform_is_plain_mse():
    for kind in TABLE:
        assert (loss_weight("uniform", rows(kind), L) == 1).all()


def test_sigmoid_integrates_to_the_bound_weighting():
    """Averaged over uniform t, a constant eps error of 1 costs the integral of sigmoid(bias - log_snr) d log_snr."""
    schedule, bias = CosineSchedule(-9, 9), -1.0
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    eps = row("eps", schedule.alpha(t), schedule.sigma(t))
    density = UniformTimes().density(t, schedule)
    mean = loss_weight("sigmoid", eps, schedule.log_snr(t), bias=bias, density=density).mean()
    exact = softplus(torch.tensor(bias + 9.0)) - softplus(torch.tensor(bias - 9.0))
    assert mean.item() == pytest.approx(exact.item(), rel=1e-5)
    with pytest.raises(ValueError, match="density"):
        loss_weight("sigmoid", rows("eps"), L)


@pytest.mark.parametrize("schedule", [CosineSchedule(), KarrasSchedule(), RectifiedFlowSchedule()])
@pytest.mark.parametrize(
    "times", [UniformTimes(), GridTimes(20_000), NormalLogSNR(), NormalLogSNR(-1.0, 2.0), LogitNormalTimes(0.2, 1.1)]
)
def test_sigmoid_means_the_same_whatever_the_distribution_of_times(times, schedule):
    """Between two noise levels that every distribution reaches, a constant eps error of 1 costs the same integral."""
    low, high, bias = -4.0, 4.0, 0.5
    t = times.draw((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000, schedule)
    log_snr, eps = schedule.log_snr(t), row("eps", schedule.alpha(t), schedule.sigma(t))
    weight = loss_weight("sigmoid", eps, log_snr, bias=bias, density=times.density(t, schedule))
    mean = weight[(low < log_snr) & (log_snr < high)].sum() / len(t)
    exact = softplus(torch.tensor(bias - low)) - softplus(torch.tensor(bias - high))
    assert mean.item() == pytest.approx(exact.item(), rel=1e-3)


def test_finite_at_the_clamp_in_float32():
    ends = torch.tensor([-20.0, 20.0])
    for name in WEIGHTINGS:
        for kind in TABLE:
            coefficients = row(kind, torch.sigmoid(ends).sqrt(), torch.sigmoid(-ends).sqrt())
            weight = loss_weight(name, coefficients, ends, density=torch.ones(2))
            assert weight.isfinite().all() and (weight >= 0).all()


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown weighting 'snr': choose one of uniform, min_snr, edm, sigmoid"):
        loss_weight("snr", rows("eps"), L)
    one = torch.ones(1)
    assert math.isclose(loss_weight("min_snr", row("x_0", one, one), torch.tensor([9.0]), gamma=1.0).item(), 1.0)
