"""Step-by-step equality with the schedulers of diffusers, fed by the same closed-form denoiser.

Their tables are float32 and their grids agree with ours when num_steps divides 1000, with trailing spacing.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from diffusion.parameterisation import edm
from diffusion.samplers import ddim, ddpm, dpmpp_2m, heun
from diffusion.schedules import KarrasSchedule, LinearSchedule, RectifiedFlowSchedule
from tests.diffusion.oracles import mixture, noise_quantiles

LINEAR = LinearSchedule()
TABLE = {"beta_schedule": "linear", "timestep_spacing": "trailing", "prediction_type": "sample"}


def walk(scheduler, num_steps, schedule, x, to_t, **kwargs):
    """Their loop: the scheduler asks for x_0 at its own integer timesteps."""
    scheduler.set_timesteps(num_steps)
    oracle = mixture(schedule)
    for timestep in scheduler.timesteps:
        t = torch.full((len(x),), to_t(timestep), dtype=torch.float64)
        x = scheduler.step(oracle.denoise(x, t), timestep, x, **kwargs).prev_sample
    return x


def step_to_t(timestep):
    return (int(timestep) + 1) / 1000


@pytest.mark.parametrize("num_steps", [10, 50, 250])
def test_ddim(num_steps):
    x_T = noise_quantiles(LINEAR)
    theirs = walk(DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **TABLE), num_steps, LINEAR, x_T, step_to_t)
    ours = ddim(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=num_steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise(eta):
    x_T = noise_quantiles(LINEAR)
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **TABLE)
    theirs = walk(scheduler, 50, LINEAR, x_T, step_to_t, eta=eta, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    ours = ddim(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=50, eta=eta, generator=generator)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("num_steps, variance", [(20, "small"), (1000, "small"), (1000, "large")])
def test_ddpm(num_steps, variance):
    """Not fixed_large with few steps: there diffusers adds noise on the last step too."""
    x_T = noise_quantiles(LINEAR)
    scheduler = DDPMScheduler(clip_sample=False, variance_type=f"fixed_{variance}", **TABLE)
    theirs = walk(scheduler, num_steps, LINEAR, x_T, step_to_t, generator=torch.Generator().manual_seed(4))
    kwargs = {"variance": variance, "generator": torch.Generator().manual_seed(4)}
    ours = ddpm(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=num_steps, **kwargs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-4)


@pytest.mark.parametrize("num_steps", [5, 20, 100])
def test_dpmpp_2m(num_steps):
    x_T = noise_quantiles(LINEAR)
    scheduler = DPMSolverMultistepScheduler(solver_order=2, final_sigmas_type="zero", **TABLE)
    theirs = walk(scheduler, num_steps, LINEAR, x_T, step_to_t)
    ours = dpmpp_2m(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=num_steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_steps", [5, 20, 100])
def test_dpmpp_2m_with_noise(num_steps):
    x_T = noise_quantiles(LINEAR)
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2, final_sigmas_type="zero", **TABLE)
    theirs = walk(scheduler, num_steps, LINEAR, x_T, step_to_t, generator=torch.Generator().manual_seed(5))
    ours = dpmpp_2m(mixture(LINEAR).denoise, LINEAR, x_T, num_steps=num_steps, eta=1.0, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("theirs, ours", [(EDMEulerScheduler, ddim), (EDMDPMSolverMultistepScheduler, dpmpp_2m)])
def test_karras(theirs, ours):
    schedule, num_steps = KarrasSchedule(), 20
    kwargs = {} if ours is ddim else {"final_sigmas_type": "zero"}
    scheduler = theirs(sigma_min=0.002, sigma_max=80, sigma_data=0.5, rho=7, sigma_schedule="karras", **kwargs)
    scheduler.set_timesteps(num_steps)
    oracle, x = mixture(schedule), noise_quantiles(schedule)
    start = x
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.double()):
        t = schedule.t_from_log_snr(-2 * sigma.log()).expand(len(x))
        # They want the raw output of an EDM network: undo the preconditioning of the ideal denoiser.
        c_skip, c_out, *_ = edm(torch.ones_like(sigma), sigma, 0.5)
        x = scheduler.step((oracle.denoise(x, t) - c_skip * x) / c_out, timestep, x).prev_sample
    result = ours(oracle.denoise, schedule, start, num_steps=num_steps)
    torch.testing.assert_close(result, x.double(), rtol=0, atol=1e-4)


def test_flow_euler():
    schedule, num_steps = RectifiedFlowSchedule(), 20
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=schedule.grid(num_steps)[:-1].tolist())
    oracle, x = mixture(schedule), noise_quantiles(schedule)
    start = x
    for timestep in scheduler.timesteps:
        t = (timestep.double() / 1000).expand(len(x))
        x = scheduler.step((x - oracle.denoise(x, t)) / t[:, None], timestep, x).prev_sample
    ours = ddim(oracle.denoise, schedule, start, num_steps=num_steps)
    torch.testing.assert_close(ours, x.double(), rtol=0, atol=1e-5)


def test_flow_heun():
    schedule, num_steps = RectifiedFlowSchedule(), 20
    scheduler = FlowMatchHeunDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(num_steps)
    oracle, x = mixture(schedule), noise_quantiles(schedule)
    start = x
    for timestep in scheduler.timesteps:
        t = (timestep.double() / 1000).expand(len(x))
        x = scheduler.step((x - oracle.denoise(x, t)) / t[:, None], timestep, x).prev_sample
    grid = scheduler.sigmas.double().unique_consecutive()  # theirs lists every inner time twice
    ours = heun(oracle.denoise, schedule, start, num_steps=len(grid) - 1, grid=lambda n: grid)
    torch.testing.assert_close(ours, x.double(), rtol=0, atol=1e-5)
