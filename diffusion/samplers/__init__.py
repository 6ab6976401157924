"""Samplers: functions from pure noise x_T to x_0, for any schedule and any denoiser `denoise(x_t, t) -> x_0_hat`.

All visit the schedule's grid (or `grid(num_steps)`): num_steps + 1 times from 1 down, the last of which stands for
clean data, alpha = 1 and sigma = 0, so the last step adds no noise and returns x_0_hat. eps is always re-derived from
x_0_hat, so guidance and thresholds act on it too. Coefficients are float64 numbers; alpha = 0 at t = 1 is allowed.
`on_step(step, x_t, x_0_hat)` sees each new x_t; `generator` is one torch.Generator or one per sample.

Euler's rule on rectified flow, `euler` elsewhere, is `ddim` with eta = 0: on any schedule ddim is Euler's rule on
dx = x_0_hat dalpha + eps_hat dsigma, and on straight lines that is dx = (eps_hat - x_0_hat) dt.
"""

from diffusion.samplers.ancestral import ddim, ddim_invert, ddpm
from diffusion.samplers.heun import edm, heun
from diffusion.samplers.multistep import dpmpp_2m, unipc
from diffusion.samplers.repaint import repaint
from diffusion.samplers.steps import Grid, OnStep, Step

__all__ = ["Grid", "OnStep", "Step", "ddim", "ddim_invert", "ddpm", "dpmpp_2m", "edm", "heun", "repaint", "unipc"]
