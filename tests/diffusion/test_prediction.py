from __future__ import annotations

import pytest
import torch

from diffusion.prediction import PREDICTIONS, target, to_eps, to_x_0
from tests.diffusion.oracles import SCHEDULES, VARIANCE_PRESERVING

T = torch.tensor([0.02, 0.3, 0.6, 0.9], dtype=torch.float64)


def draw(name):
    x_0, eps = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = SCHEDULES[name].alpha(T), SCHEDULES[name].sigma(T)
    x_t = alpha[:, None, None] * x_0 + sigma[:, None, None] * eps
    return x_0, eps, alpha, sigma, x_t


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip(name, kind):
    x_0, eps, alpha, sigma, x_t = draw(name)
    x_0_hat = to_x_0(kind, target(kind, x_0, eps, alpha, sigma), x_t, alpha, sigma)
    torch.testing.assert_close(x_0_hat, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_eps(x_0_hat, x_t, alpha, sigma), eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_v_gives_eps_by_rotation(name):
    """eps = sigma x_t + alpha v (Salimans & Ho 2022, appendix D)."""
    x_0, eps, alpha, sigma, x_t = draw(name)
    v = target("v", x_0, eps, alpha, sigma)
    torch.testing.assert_close(sigma[:, None, None] * x_t + alpha[:, None, None] * v, eps, rtol=1e-9, atol=1e-9)


def test_flow_is_the_velocity_of_the_line():
    x_0, eps, alpha, sigma, _ = draw("rectified_flow")
    velocity = ((1 - 0.7) * x_0 + 0.7 * eps - (1 - 0.6) * x_0 - 0.6 * eps) / 0.1
    torch.testing.assert_close(target("flow", x_0, eps, alpha, sigma), velocity)


@pytest.mark.parametrize("kind", ["x_0", "v", "flow"])
def test_finite_without_signal(kind):
    zero, one = torch.zeros(2), torch.ones(2)
    x_0, eps = torch.randn(2, 2, 3)
    out = target(kind, x_0, eps, zero, one)
    torch.testing.assert_close(to_x_0(kind, out, eps, zero, one), x_0, rtol=0, atol=1e-6)


def test_unknown_prediction():
    with pytest.raises(ValueError, match="unknown prediction 'noise'"):
        target("noise", *[torch.zeros(1)] * 4)
