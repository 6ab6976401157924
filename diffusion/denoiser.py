"""From a network to `denoise(x_t, t) -> x_0_hat`, and the loss that trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.prediction import check_prediction, target, to_x_0
from diffusion.process import add_noise, expand
from diffusion.schedules import NoiseSchedule
from diffusion.weighting import loss_weight

Denoise = Callable[..., Tensor]
LOG_SNR_LIMIT = 20.0


def make_denoiser(
    net: Callable[..., Tensor], schedule: NoiseSchedule, prediction: str, *, sigma_data: float | None = None
) -> Denoise:
    """`denoise(x_t, t, **cond) -> x_0_hat` from a net called as `net(x, log_snr, **cond)`; x_t (B, ...), t (B,).

    With sigma_data the net is preconditioned as in EDM and `prediction` must be x_0. log_snr (B,) is clamped to ±20.
    x_0_hat is float32 (float64 for float64 x_t) whatever the net computes in.
    Raises: ValueError for predictions that the schedule cannot carry.
    Source: Karras et al. 2022 (EDM), eq. 7 and table 1, in terms of x_t = alpha x_0 + sigma eps
    """
    check(schedule, prediction, sigma_data)

    def denoise(x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        x_t = full_precision(x_t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        out = call(net, x_t, alpha, sigma, schedule.log_snr(t), sigma_data, cond)
        if sigma_data is None:
            return to_x_0(prediction, out, x_t, alpha, sigma)
        c_skip, c_out, _ = preconditioning(alpha, sigma, sigma_data)
        return expand(c_skip, x_t) * x_t + expand(c_out, x_t) * out

    return denoise


def denoising_loss(
    net: Callable[..., Tensor],
    x_0: Tensor,
    *,
    schedule: NoiseSchedule,
    prediction: str,
    weighting: str,
    t: Tensor,
    eps: Tensor,
    sigma_data: float | None = None,
    weighting_kwargs: dict[str, float] | None = None,
    **cond: Any,
) -> Tensor:
    """Weighted squared error per sample (B,), a mean over dimensions, float32; x_0, eps (B, ...), t (B,) in [0, 1].

    Source: Ho et al. 2020, eq. 14; Karras et al. 2022, eq. 8; weightings in `loss_weight`
    """
    check(schedule, prediction, sigma_data)
    x_0 = full_precision(x_0)
    eps = eps.to(x_0.dtype)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t = add_noise(x_0, eps, t, schedule)
    log_snr = schedule.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
    out = call(net, x_t, alpha, sigma, log_snr, sigma_data, cond)
    options: dict[str, Any] = dict(weighting_kwargs or {})
    if weighting == "sigmoid":
        options["log_snr_slope"] = schedule.log_snr_slope(t)
    if weighting == "edm" and sigma_data is not None:
        options.setdefault("sigma_data", sigma_data)
    weight = loss_weight(weighting, prediction, log_snr, **options)
    if sigma_data is None:
        wanted = target(prediction, x_0, eps, alpha, sigma)
    else:
        # The error of x_0_hat is c_out times that of the raw output; this form does not cancel at small sigma.
        _, c_out, c_in = preconditioning(alpha, sigma, sigma_data)
        wanted = (expand(sigma, x_0) * x_0 / sigma_data - expand(alpha * sigma_data, x_0) * eps) * expand(c_in, x_0)
        weight = weight * c_out**2
    return weight.to(x_0.dtype) * (out - wanted).square().flatten(1).mean(1)


def preconditioning(alpha: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) of x_0_hat = c_skip x_t + c_out net(c_in x_t); finite at alpha = 0 and at sigma = 0.

    Source: Karras et al. 2022 (EDM), table 1, with their sigma = sigma / alpha
    """
    c_in = (alpha**2 * sigma_data**2 + sigma**2).rsqrt()
    return alpha * sigma_data**2 * c_in**2, sigma * sigma_data * c_in, c_in


def call(
    net: Callable[..., Tensor],
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    log_snr: Tensor,
    sigma_data: float | None,
    cond: dict[str, Any],
) -> Tensor:
    """The raw output of the net in full precision, its input scaled to unit variance where sigma_data is given."""
    if sigma_data is not None:
        x_t_in = expand(preconditioning(alpha, sigma, sigma_data)[2], x_t) * x_t
    else:
        x_t_in = x_t
    out = net(x_t_in, log_snr.to(x_t.dtype).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT), **cond)
    return out.to(x_t.dtype)


def full_precision(x: Tensor) -> Tensor:
    """x in float64 if it was, else float32."""
    return x if x.dtype == torch.float64 else x.float()


def check(schedule: NoiseSchedule, prediction: str, sigma_data: float | None) -> None:
    """Raises: ValueError if the schedule or the preconditioning rules out this prediction."""
    check_prediction(prediction)
    if sigma_data is not None and prediction != "x_0":
        raise ValueError(f"prediction={prediction!r} with sigma_data: EDM preconditioning needs prediction='x_0'")
    if prediction == "eps" and schedule.alpha(torch.ones(1)).item() == 0:
        where = f"t = 1 of {type(schedule).__name__}"
        raise ValueError(f"prediction='eps' cannot recover x_0 where alpha = 0 ({where}): use v, x_0 or flow")
