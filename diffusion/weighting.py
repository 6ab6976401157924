"""Loss weightings, each a weight on the squared error of x_0_hat as a function of the noise level.

The weight on the squared error of the net's output F is that times c_out², since the error of x_0_hat is c_out times
the error of F. So a weighting means the same for every parameterisation and every schedule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.parameterisation import Row

WEIGHTINGS = ("uniform", "min_snr", "edm", "sigmoid")


def loss_weight(
    name: str,
    coefficients: Row,
    log_snr: Tensor,
    *,
    gamma: float = 5.0,
    sigma_data: float = 0.5,
    bias: float = 0.0,
    density: Tensor | None = None,
) -> Tensor:
    """Factor (B,) on the squared error of F that makes the loss the weighting called `name`.

    uniform: 1 on F's own error, the plain mean squared error of what the net predicts. min_snr: min(SNR, gamma) on x_0.
    edm: SNR + 1 / sigma_data² on x_0. sigmoid: sigmoid(bias - log_snr) on eps, per unit of log_snr: the density of the
    training times is divided out, so that it means the same for every distribution of times.

    Args:
        coefficients: the row of the parameterisation at these noise levels.
        density: (B,) probability density of the training noise levels, per unit of log_snr; for sigmoid.
    Raises: ValueError for an unknown name, or sigmoid without a density.
    Source: Hang et al. 2023, eq. 8 (min_snr); Karras et al. 2022, table 1 (edm); Kingma & Gao 2023, Hoogeboom et al.
    2024 (sigmoid)
    """
    if name == "uniform":
        return torch.ones_like(log_snr)
    if name == "min_snr":
        on_x_0 = log_snr.exp().clamp(max=gamma)
    elif name == "edm":
        on_x_0 = log_snr.exp() + 1 / sigma_data**2
    elif name == "sigmoid":
        if density is None:
            raise ValueError("weighting 'sigmoid' needs the density of the training noise levels per unit of log_snr")
        on_x_0 = log_snr.exp() * torch.sigmoid(bias - log_snr) / density
    else:
        raise ValueError(f"unknown weighting {name!r}: choose one of {', '.join(WEIGHTINGS)}")
    return on_x_0 * coefficients.c_out.to(log_snr.dtype) ** 2
