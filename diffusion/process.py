"""The forward process q(x_t | x_0) and its exact reverse kernel q(x_u | x_t, x_0) for any scales (alpha, sigma)."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from diffusion.schedules import NoiseSchedule

Number = TypeVar("Number", float, Tensor)


def expand(c: Tensor, x: Tensor) -> Tensor:
    """Coefficients c (B,) or () broadcast over the trailing dimensions of x (B, ...), in x's dtype."""
    return c.to(x.dtype).reshape(*c.shape, *[1] * (x.ndim - c.ndim))


def add_noise(x_0: Tensor, eps: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """x_t = alpha(t) x_0 + sigma(t) eps for t (B,).

    Source: Ho et al. 2020, eq. 4; Kingma et al. 2021, eq. 1
    """
    return expand(schedule.alpha(t), x_0) * x_0 + expand(schedule.sigma(t), x_0) * eps


def step_variance(alpha_t: Number, sigma_t: Number, alpha_u: Number, sigma_u: Number) -> Number:
    """Variance that the forward process adds between u and t > u: sigma_t² - (alpha_t / alpha_u)² sigma_u².

    Source: Kingma et al. 2021, section 3.1 (DDPM's beta_t on neighbouring steps)
    """
    return sigma_t**2 - (alpha_t / alpha_u) ** 2 * sigma_u**2


def posterior(
    alpha_t: Number, sigma_t: Number, alpha_u: Number, sigma_u: Number
) -> tuple[Number, Number, Number]:
    """q(x_u | x_t, x_0) for u < t as (c_x_t, c_x_0, variance): mean = c_x_t x_t + c_x_0 x_0; sigma_t > 0, alpha_u > 0.

    Source: Ho et al. 2020, eqs. 6-7; Kingma et al. 2021, eqs. 26-28
    """
    added = step_variance(alpha_t, sigma_t, alpha_u, sigma_u) / sigma_t**2
    return alpha_t / alpha_u * sigma_u**2 / sigma_t**2, alpha_u * added, added * sigma_u**2
