from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from diffusion.prediction import target
from diffusion.process import add_noise, expand
from diffusion.schedules import CosineSchedule
from diffusion.weighting import WEIGHTINGS, error_ratio, loss_weight
from tests.diffusion.oracles import SCHEDULES

L = torch.linspace(-12, 12, 49, dtype=torch.float64)
SNR = L.exp()


def error(kind, schedule, x_0, x_0_hat, eps, t):
    """Squared error in terms of `kind` of a wrong x_0_hat at a fixed x_t."""
    x_t = add_noise(x_0, eps, t, schedule)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    eps_hat = (x_t - expand(alpha, x_t) * x_0_hat) / expand(sigma, x_t)
    return (target(kind, x_0_hat, eps_hat, alpha, sigma) - target(kind, x_0, eps, alpha, sigma)).square().sum(1)


@pytest.mark.parametrize(
    "kind, name",
    [("eps", "cosine"), ("v", "cosine"), ("flow", "cosine"), ("eps", "karras"), ("flow", "rectified_flow")],
)
def test_errors_stand_in_the_stated_ratio(kind, name):
    schedule, t = SCHEDULES[name], torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    x_0, x_0_hat, eps = torch.randn(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ratio = error(kind, schedule, x_0, x_0_hat, eps, t) / error("x_0", schedule, x_0, x_0_hat, eps, t)
    torch.testing.assert_close(ratio, error_ratio(kind, schedule.log_snr(t)), rtol=1e-8, atol=0)


def test_x_0_eps_v_are_one_snr_snr_plus_one():
    torch.testing.assert_close(error_ratio("x_0", L), torch.ones_like(L))
    torch.testing.assert_close(error_ratio("eps", L), SNR)
    torch.testing.assert_close(error_ratio("v", L), SNR + 1)


@pytest.mark.parametrize("name", ["min_snr", "edm", "sigmoid"])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_named_weighting_does_not_depend_on_the_prediction(name, kind):
    kwargs = {"log_snr_slope": -torch.ones_like(L)} if name == "sigmoid" else {}
    through_kind = loss_weight(name, kind, L, **kwargs) * error_ratio(kind, L)
    torch.testing.assert_close(through_kind, loss_weight(name, "x_0", L, **kwargs))


def test_min_snr():
    clipped = SNR.clamp(max=5)
    torch.testing.assert_close(loss_weight("min_snr", "x_0", L), clipped)
    torch.testing.assert_close(loss_weight("min_snr", "eps", L), clipped / SNR)
    torch.testing.assert_close(loss_weight("min_snr", "v", L), clipped / (SNR + 1))


def test_edm_is_lambda_of_sigma():
    sigma, sigma_data = (-L / 2).exp(), 0.6
    wanted = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    torch.testing.assert_close(loss_weight("edm", "x_0", L, sigma_data=sigma_data), wanted)


def test_uniform_is_plain_mse():
    for kind in ("eps", "x_0", "v", "flow"):
        assert (loss_weight("uniform", kind, L) == 1).all()


def test_sigmoid_integrates_to_the_bound_weighting():
    """Averaged over uniform t, a constant eps error of 1 costs the integral of sigmoid(bias - log_snr) d log_snr."""
    schedule, bias = CosineSchedule(-9, 9), -1.0
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    kwargs = {"bias": bias, "log_snr_slope": schedule.log_snr_slope(t)}
    mean = loss_weight("sigmoid", "eps", schedule.log_snr(t), **kwargs).mean()
    exact = softplus(torch.tensor(bias + 9.0)) - softplus(torch.tensor(bias - 9.0))
    assert mean.item() == pytest.approx(exact.item(), rel=1e-5)
    with pytest.raises(ValueError, match="log_snr_slope"):
        loss_weight("sigmoid", "eps", L)


def test_finite_at_the_clamp_in_float32():
    ends = torch.tensor([-20.0, 20.0])
    for name in WEIGHTINGS:
        for kind in ("eps", "x_0", "v", "flow"):
            weight = loss_weight(name, kind, ends, log_snr_slope=-torch.ones(2))
            assert weight.isfinite().all() and (weight >= 0).all()


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown weighting 'snr'"):
        loss_weight("snr", "eps", L)
    with pytest.raises(ValueError, match="unknown prediction 'x'"):
        loss_weight("uniform", "x", L)
    assert math.isclose(loss_weight("min_snr", "x_0", torch.tensor([9.0]), gamma=1.0).item(), 1.0)
