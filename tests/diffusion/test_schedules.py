from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler

from diffusion.schedules import CosineSchedule, KarrasSchedule, LinearSchedule, RectifiedFlowSchedule, zero_terminal_snr
from tests.diffusion.oracles import SCHEDULES, VARIANCE_PRESERVING

INNER = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_falls_and_matches_the_scales(name):
    schedule = SCHEDULES[name]
    alpha, sigma, log_snr = schedule.alpha(INNER), schedule.sigma(INNER), schedule.log_snr(INNER)
    assert (log_snr.diff() < 0).all() and (sigma.diff() > 0).all() and (alpha.diff() <= 0).all()
    torch.testing.assert_close(log_snr, (alpha**2 / sigma**2).log(), rtol=1e-8, atol=1e-8)
    for scale in (schedule.alpha(ENDS), schedule.sigma(ENDS)):
        assert scale.isfinite().all() and (scale >= 0).all()


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_variance_preserving(name):
    t = torch.cat([ENDS, INNER])
    torch.testing.assert_close(SCHEDULES[name].alpha(t) ** 2 + SCHEDULES[name].sigma(t) ** 2, torch.ones_like(t))


@pytest.mark.parametrize("name", SCHEDULES)
def test_t_from_log_snr_inverts(name):
    schedule = SCHEDULES[name]
    torch.testing.assert_close(schedule.t_from_log_snr(schedule.log_snr(INNER)), INNER, rtol=0, atol=1e-7)
    out_of_range = schedule.t_from_log_snr(torch.tensor([1e3, -1e3], dtype=torch.float64))
    torch.testing.assert_close(out_of_range, ENDS, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_slope_is_the_derivative(name):
    schedule, h = SCHEDULES[name], 1e-7
    t = torch.tensor([0.10037, 0.50041, 0.90063], dtype=torch.float64)  # off the knots of the linear table
    numeric = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.log_snr_slope(t), numeric, rtol=1e-5, atol=0)
    assert schedule.log_snr_slope(ENDS).isfinite().all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_float32_in_float32_out_without_loss(name):
    t = INNER.float()
    for f in (SCHEDULES[name].alpha, SCHEDULES[name].sigma, SCHEDULES[name].log_snr):
        assert f(t).dtype == torch.float32
        torch.testing.assert_close(f(t), f(t.double()).float(), rtol=0, atol=0)


def test_cosine_closed_form_and_bounds():
    plain = CosineSchedule(-1e2, 1e2)
    torch.testing.assert_close(plain.alpha(INNER), torch.cos(math.pi * INNER / 2))
    bounded = CosineSchedule(-15, 12, shift=-2.0)
    torch.testing.assert_close(bounded.log_snr(ENDS), torch.tensor([10.0, -17.0], dtype=torch.float64))
    torch.testing.assert_close(SCHEDULES["cosine_shifted"].log_snr(INNER) - CosineSchedule().log_snr(INNER),
                               torch.full_like(INNER, 2 * math.log(64 / 256)))


def test_linear_is_the_ddpm_table():
    table = DDPMScheduler(beta_schedule="linear").alphas_cumprod.double()
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(LinearSchedule().alpha(t) ** 2, table, rtol=2e-4, atol=1e-6)
    exact = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(LinearSchedule().alpha(t) ** 2, exact, rtol=1e-11, atol=0)
    assert LinearSchedule().sigma(ENDS)[0] == 0 and LinearSchedule().log_snr(ENDS)[0] == math.inf


def test_linear_with_fewer_steps_destroys_as_much():
    end = torch.ones(1, dtype=torch.float64)
    ratio = LinearSchedule(250).log_snr(end) / LinearSchedule(1000).log_snr(end)
    assert 0.98 < ratio < 1.05
    with pytest.raises(ValueError, match="num_train_steps=10"):
        LinearSchedule(10)


def test_karras_grid_is_edm():
    n = 18
    i = torch.arange(n, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    schedule = KarrasSchedule()
    grid = schedule.grid(n)
    assert len(grid) == n + 1
    torch.testing.assert_close(schedule.sigma(grid[:-1]), sigma, rtol=1e-12, atol=0)
    edm = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, rho=7)
    edm.set_timesteps(n)
    torch.testing.assert_close(edm.sigmas[:-1].double(), sigma, rtol=1e-5, atol=1e-7)
    assert (schedule.alpha(INNER) == 1).all()


def test_rectified_flow_is_a_line():
    schedule, t = RectifiedFlowSchedule(), torch.cat([ENDS, INNER])
    torch.testing.assert_close(schedule.alpha(t), 1 - t, rtol=1e-13, atol=0)
    torch.testing.assert_close(schedule.sigma(t), t, rtol=1e-13, atol=0)


def test_zero_terminal_snr():
    for base in (LinearSchedule(), CosineSchedule()):
        schedule = zero_terminal_snr(base)
        assert schedule.alpha(ENDS)[1] == 0 and schedule.sigma(ENDS)[1] == 1
        assert schedule.alpha(ENDS)[0] == base.alpha(ENDS)[0]
    # diffusers keeps step 1 of the table where we keep step 0, clean data: they differ by less than 1 - alpha_1.
    theirs = DDIMScheduler(beta_schedule="linear", rescale_betas_zero_snr=True).alphas_cumprod.double().sqrt()
    ours = SCHEDULES["linear_zero_terminal"].alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert (ours - theirs).abs().max() < 5e-5
    assert (LinearSchedule().alpha(torch.ones(1)) - theirs[-1]).abs() > 6e-3
    for wrong in (KarrasSchedule(), RectifiedFlowSchedule()):
        with pytest.raises(ValueError, match="alpha² \\+ sigma² = 1"):
            zero_terminal_snr(wrong)


def test_default_grid_includes_both_ends():
    torch.testing.assert_close(CosineSchedule().grid(4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))


def test_bad_bounds():
    with pytest.raises(ValueError, match="log_snr_min=3"):
        CosineSchedule(3, -3)
    with pytest.raises(ValueError, match="sigma_min=5"):
        KarrasSchedule(5, 1)
