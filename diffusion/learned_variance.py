"""A learned variance of the reverse kernels, between the two that DDPM fixes, and the loss that trains it.

The net has a second output of the shape of x_t. A denoiser with it has `with_variance(x_t, t, **cond) -> (x_0_hat, v)`
beside its plain call; v = (output + 1) / 2, so that v = 0 is the small variance and v = 1 the large one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.process import Number, expand, posterior, step_variance


def reverse_variances(alpha_t: Number, sigma_t: Number, alpha_u: Number, sigma_u: Number) -> tuple[Number, Number]:
    """(small, large) variance of x_u given x_t: right for data at one point, and for N(0, I) data.

    They are DDPM's beta~_t and beta_t where alpha² + sigma² = 1. At u = 0 the small one is 0.
    Source: Ho et al. 2020, section 3.2
    """
    total = (alpha_u**2 + sigma_u**2) / (alpha_t**2 + sigma_t**2)
    scales = alpha_t, sigma_t, alpha_u, sigma_u
    return posterior(*scales)[2], step_variance(*scales) * total


def interpolated_log_variance(v: Tensor, small: float | Tensor, large: float | Tensor) -> Tensor:
    """v log large + (1 - v) log small for v (B, ...); variances are positive numbers, or tensors that broadcast to v.

    Source: Nichol & Dhariwal 2021, eq. 15
    """
    log = lambda c: c.log() if isinstance(c, Tensor) else math.log(c)  # noqa: E731
    return v * log(large) + (1 - v) * log(small)


def gaussian_kl(mean_q: Tensor, log_var_q: Tensor, mean_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL(N(mean_q, var_q) || N(mean_p, var_p)) in nats, elementwise."""
    difference = log_var_q - log_var_p
    return 0.5 * (difference.expm1() - difference + (mean_q - mean_p).square() * torch.exp(-log_var_p))


def vlb_term(
    x_0: Tensor,
    x_t: Tensor,
    x_0_hat: Tensor,
    v: Tensor,
    alpha_t: Tensor,
    sigma_t: Tensor,
    alpha_u: Tensor,
    sigma_u: Tensor,
) -> Tensor:
    """One term of the bound in nats per sample (B,), with a gradient for v alone: the mean is held fixed.

    KL of the reverse kernel with interpolated variance from the exact one, x_0, x_t, x_0_hat, v (B, ...), scales (B,)
    of t and of u < t, sigma_u > 0; the last term, at u = 0, is `likelihood.log_byte`.
    Source: Nichol & Dhariwal 2021, section 3.1; Ho et al. 2020, eq. 5
    """
    scales = [expand(c.double(), x_0.double()) for c in (alpha_t, sigma_t, alpha_u, sigma_u)]
    c_x_t, c_x_0, small = (c.to(x_0.dtype) for c in posterior(*scales))
    large = reverse_variances(*scales)[1].to(x_0.dtype)
    log_var = interpolated_log_variance(v, small, large)
    mean = c_x_t * x_t + c_x_0 * x_0_hat.detach()
    return gaussian_kl(c_x_t * x_t + c_x_0 * x_0, small.log(), mean, log_var).flatten(1).sum(1)


def hybrid_loss(simple: Tensor, term_nats: Tensor, dim: int, num_steps: int, weight: float = 1e-3) -> Tensor:
    """L_simple + weight L_vlb per sample (B,), where t is uniform over num_steps, so L_vlb is num_steps times one term.

    L_vlb is in bits per dimension, as in the authors' code, beside an L_simple that is a mean over dimensions.
    Args: term_nats: one term (B,) in nats per sample; dim: values per sample.
    Source: Nichol & Dhariwal 2021, eq. 16
    """
    return simple + weight * num_steps * term_nats / (dim * math.log(2))
