"""The table of parameterisations against definitions of its own, in float64, for every schedule."""

from __future__ import annotations

import pytest
import torch
from diffusers import EDMEulerScheduler
from torch import Tensor

from diffusion.parameterisation import NEEDS_SIGNAL, TABLE, Row, row
from tests.diffusion.oracles import SCHEDULES, VARIANCE_PRESERVING, coefficients, target

T = torch.tensor([0.02, 0.3, 0.6, 0.9], dtype=torch.float64)


def draw(name: str) -> tuple[Tensor, ...]:
    x_0, eps = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = SCHEDULES[name].alpha(T), SCHEDULES[name].sigma(T)
    x_t = alpha[:, None, None] * x_0 + sigma[:, None, None] * eps
    return x_0, eps, alpha, sigma, x_t


def columns(found: Row) -> list[Tensor]:
    """The five coefficients as (B, 1, 1)."""
    return [c[:, None, None] for c in found]


def test_the_kinds() -> None:
    assert list(TABLE) == ["eps", "x_0", "v", "flow", "edm"] and NEEDS_SIGNAL == ("eps",)


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_row_is_its_definition(name: str, kind: str) -> None:
    x_0, eps, alpha, sigma, _ = draw(name)
    found = row(kind, alpha, sigma, 0.6)
    for ours, wanted in zip(found, coefficients(kind, alpha, sigma, 0.6)):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)
    *_, on_x_0, on_eps = columns(found)
    torch.testing.assert_close(on_x_0 * x_0 + on_eps * eps, target(kind, x_0, eps, alpha, sigma, 0.6), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", TABLE)
@pytest.mark.parametrize("name", SCHEDULES)
def test_round_trip(name: str, kind: str) -> None:
    x_0, eps, alpha, sigma, x_t = draw(name)
    c_skip, c_out, _, on_x_0, on_eps = columns(row(kind, alpha, sigma))
    x_0_hat = c_skip * x_t + c_out * (on_x_0 * x_0 + on_eps * eps)
    torch.testing.assert_close(x_0_hat, x_0, rtol=1e-9, atol=1e-9)
    eps_hat = (x_t - alpha[:, None, None] * x_0_hat) / sigma[:, None, None]
    torch.testing.assert_close(eps_hat, eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_v_gives_eps_by_rotation(name: str) -> None:
    """eps = sigma x_t + alpha v (Salimans & Ho 2022, appendix D)."""
    x_0, eps, alpha, sigma, x_t = draw(name)
    *_, on_x_0, on_eps = columns(row("v", alpha, sigma))
    v = on_x_0 * x_0 + on_eps * eps
    torch.testing.assert_close(sigma[:, None, None] * x_t + alpha[:, None, None] * v, eps, rtol=1e-9, atol=1e-9)


def test_flow_is_the_velocity_of_the_line() -> None:
    x_0, eps, alpha, sigma, _ = draw("rectified_flow")
    velocity = ((1 - 0.7) * x_0 + 0.7 * eps - (1 - 0.6) * x_0 - 0.6 * eps) / 0.1
    *_, on_x_0, on_eps = columns(row("flow", alpha, sigma))
    torch.testing.assert_close(on_x_0 * x_0 + on_eps * eps, velocity)


@pytest.mark.parametrize("kind", ["x_0", "v", "flow", "edm"])
def test_finite_without_signal(kind: str) -> None:
    x_0, eps = torch.randn(2, 2, 3)
    c_skip, c_out, _, on_x_0, on_eps = (c[:, None] for c in row(kind, torch.zeros(2), torch.ones(2)))
    torch.testing.assert_close(c_skip * eps + c_out * (on_x_0 * x_0 + on_eps * eps), x_0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", TABLE)
def test_finite_without_noise_in_float32(kind: str) -> None:
    x_0 = torch.randn(2, 3)
    c_skip, c_out, c_in, on_x_0, on_eps = (c[:, None] for c in row(kind, torch.ones(2), torch.zeros(2)))
    torch.testing.assert_close(c_skip * x_0 + c_out * on_x_0 * x_0, x_0, rtol=0, atol=1e-6)
    assert all(c.isfinite().all() and c.dtype == torch.float32 for c in (c_in, on_eps))


def test_edm_is_table_1() -> None:
    sigma, sigma_data = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64), 0.6
    c_skip, c_out, c_in, _, _ = row("edm", torch.ones_like(sigma), sigma, sigma_data)
    torch.testing.assert_close(c_skip, sigma_data**2 / (sigma**2 + sigma_data**2))
    torch.testing.assert_close(c_out, sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt())
    torch.testing.assert_close(c_in, 1 / (sigma**2 + sigma_data**2).sqrt())
    edm = EDMEulerScheduler(sigma_data=sigma_data)
    x, out = torch.randn(2, 4, dtype=torch.float64)
    theirs = edm.precondition_outputs(x, out, sigma[1])
    torch.testing.assert_close(c_skip[1] * x + c_out[1] * out, theirs)


@pytest.mark.parametrize("name", SCHEDULES)
def test_edm_does_not_care_how_x_t_is_scaled(name: str) -> None:
    """For every schedule the result is EDM's at sigma / alpha, and input and target have unit variance."""
    _, _, alpha, sigma, _ = draw(name)
    c_skip, c_out, c_in, on_x_0, on_eps = row("edm", alpha, sigma, 0.6)
    ve_skip, ve_out, ve_in, *ve_target = row("edm", torch.ones_like(alpha), sigma / alpha, 0.6)
    torch.testing.assert_close(c_skip * alpha, ve_skip)
    torch.testing.assert_close(c_out, ve_out)
    torch.testing.assert_close(c_in * alpha, ve_in)
    torch.testing.assert_close([on_x_0, on_eps], ve_target)
    torch.testing.assert_close(c_in**2 * (alpha**2 * 0.36 + sigma**2), torch.ones_like(alpha))
    torch.testing.assert_close(on_x_0**2 * 0.36 + on_eps**2, torch.ones_like(alpha))


def test_unknown_prediction() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'noise': choose one of eps, x_0, v, flow, edm"):
        row("noise", torch.zeros(1), torch.ones(1))
