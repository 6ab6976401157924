"""Loss weightings. At a fixed x_t the squared errors of x_0 : eps : v are 1 : SNR : SNR + 1, so one is all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.prediction import check_prediction

WEIGHTINGS = ("uniform", "min_snr", "edm", "sigmoid")


def error_ratio(kind: str, log_snr: Tensor) -> Tensor:
    """Squared error of the prediction `kind` over squared error of x_0 (v: where alpha² + sigma² = 1).

    Source: Salimans & Ho 2022, section 4; flow: (1 + sqrt SNR)², from eps - x_0 at fixed x_t
    """
    check_prediction(kind)
    if kind == "x_0":
        return torch.ones_like(log_snr)
    if kind == "eps":
        return log_snr.exp()
    if kind == "v":
        return log_snr.exp() + 1
    return (1 + (log_snr / 2).exp()) ** 2


def loss_weight(
    name: str,
    kind: str,
    log_snr: Tensor,
    *,
    gamma: float = 5.0,
    sigma_data: float = 0.5,
    bias: float = 0.0,
    log_snr_slope: Tensor | None = None,
) -> Tensor:
    """Factor (B,) on the squared error of the prediction `kind` that makes the loss the weighting called `name`.

    uniform: 1, the plain MSE of the prediction. min_snr: min(SNR, gamma) on x_0. edm: SNR + 1 / sigma_data² on x_0.
    sigmoid: sigmoid(bias - log_snr) on eps per unit of log_snr; needs log_snr_slope = d log_snr / dt, t uniform.
    Raises: ValueError for an unknown name, or sigmoid without its slope.
    Source: Hang et al. 2023, eq. 8 (min_snr); Karras et al. 2022, table 1 (edm); Kingma & Gao 2023, Hoogeboom et al.
    2024 (sigmoid)
    """
    if name == "uniform":
        check_prediction(kind)
        return torch.ones_like(log_snr)
    if name == "min_snr":
        on_x_0 = log_snr.exp().clamp(max=gamma)
    elif name == "edm":
        on_x_0 = log_snr.exp() + 1 / sigma_data**2
    elif name == "sigmoid":
        if log_snr_slope is None:
            raise ValueError("weighting 'sigmoid' needs log_snr_slope: pass schedule.log_snr_slope(t)")
        on_x_0 = -log_snr_slope * log_snr.exp() * torch.sigmoid(bias - log_snr)
    else:
        raise ValueError(f"unknown weighting {name!r}: choose one of {', '.join(WEIGHTINGS)}")
    return on_x_0 / error_ratio(kind, log_snr)
