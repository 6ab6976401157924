"""Closed-form diffusion: for Gaussian-mixture data the best denoiser, its score and its probability-flow map are known.

In one dimension a flow keeps quantiles, so the exact map is x_0 = F_0^-1(F_T(x_T)) for any schedule; for one Gaussian
it is affine. Nothing here uses the code under test except the schedule's alpha and sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.schedules import (
    CosineSchedule,
    KarrasSchedule,
    LinearSchedule,
    NoiseSchedule,
    RectifiedFlowSchedule,
    zero_terminal_snr,
)

SCHEDULES = {
    "cosine": CosineSchedule(),
    "cosine_shifted": CosineSchedule(shift=2 * math.log(64 / 256)),
    "linear": LinearSchedule(),
    "linear_zero_terminal": zero_terminal_snr(LinearSchedule()),
    "cosine_zero_terminal": zero_terminal_snr(CosineSchedule()),
    "karras": KarrasSchedule(),
    "rectified_flow": RectifiedFlowSchedule(),
}
VARIANCE_PRESERVING = [name for name in SCHEDULES if name not in ("karras", "rectified_flow")]


@dataclass
class Mixture:
    """Independent 1-D mixtures of K Gaussians in every dimension; float64; `log_weights` are normalised on use."""

    schedule: NoiseSchedule
    mean: Tensor  # (K,)
    std: Tensor  # (K,)
    log_weights: Tensor  # (K,)

    def _marginal(self, x: Tensor, t: Tensor, log_weights: Tensor | None) -> tuple[Tensor, ...]:
        trailing = [1] * x.ndim
        alpha = self.schedule.alpha(t).double().reshape(-1, *trailing)  # (B, 1, ..., 1)
        sigma = self.schedule.sigma(t).double().reshape(-1, *trailing)
        weights = self.log_weights if log_weights is None else log_weights
        weights = weights.log_softmax(-1).reshape(-1, *[1] * (x.ndim - 1), len(self.mean))  # (B or 1, 1, ..., K)
        variance = alpha**2 * self.std**2 + sigma**2
        return alpha, sigma, weights, variance, x.double().unsqueeze(-1) - alpha * self.mean

    def denoise(self, x: Tensor, t: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t]; log_weights (B, K) conditions each sample on a choice of components."""
        alpha, _, weights, variance, centred = self._marginal(x, t, log_weights)
        responsibility = (weights - (centred**2 / variance + variance.log()) / 2).softmax(-1)
        posterior_mean = self.mean + alpha * self.std**2 / variance * centred
        return (responsibility * posterior_mean).sum(-1).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor, log_weights: Tensor | None = None) -> Tensor:
        """log p_t(x), one number per entry of x."""
        _, _, weights, variance, centred = self._marginal(x, t, log_weights)
        return (weights - (centred**2 / variance + variance.log() + math.log(2 * math.pi)) / 2).logsumexp(-1)

    def cdf(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        std = (alpha**2 * self.std**2 + sigma**2).sqrt()
        return (self.log_weights.softmax(-1) * torch.special.ndtr((x.unsqueeze(-1) - alpha * self.mean) / std)).sum(-1)

    def ode_map(self, x_T: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x_T: the clean point of the same quantile, by bisection."""
        one = torch.ones((), dtype=torch.float64)
        quantile = self.cdf(x_T, self.schedule.alpha(one).item(), self.schedule.sigma(one).item())
        low, high = torch.full_like(x_T, -20), torch.full_like(x_T, 20)
        for _ in range(70):
            middle = (low + high) / 2
            below = self.cdf(middle, 1.0, 0.0) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def mixture(schedule: NoiseSchedule) -> Mixture:
    """Two overlapping components, asymmetric, about the scale of images in [-1, 1]."""
    values = [-0.5, 0.4], [0.25, 0.35], [math.log(0.4), math.log(0.6)]
    return Mixture(schedule, *(torch.tensor(v, dtype=torch.float64) for v in values))


def gaussian(schedule: NoiseSchedule, mean: float = 0.3, std: float = 0.6) -> Mixture:
    """One Gaussian: the denoiser is affine and the map x_0 = mu + s (x_T - alpha mu) / sqrt(alpha² s² + sigma²)."""
    return Mixture(schedule, *(torch.tensor([v], dtype=torch.float64) for v in (mean, std, 0.0)))


def noise_quantiles(schedule: NoiseSchedule) -> Tensor:
    """x_T (9, 1) at nine quantiles of sigma(1) N(0, 1), float64."""
    levels = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    return (schedule.sigma(torch.ones((), dtype=torch.float64)) * torch.special.ndtri(levels)).unsqueeze(1)


def fitted_order(num_steps: list[int], errors: list[float]) -> float:
    """Minus the slope of log error over log num_steps by least squares."""
    x = torch.tensor(num_steps, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).log()
    return -(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()


def coefficients(kind: str, alpha: Tensor, sigma: Tensor, sigma_data: float = 0.6) -> tuple[Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in) of x_0_hat = c_skip x_t + c_out F(c_in x_t), each written out from its own definition."""
    one = torch.ones_like(alpha)
    if kind == "edm":  # Karras et al. 2022, table 1, at noise level sigma / alpha, whose input is x_t / alpha
        level = sigma / alpha
        norm = level**2 + sigma_data**2
        return sigma_data**2 / norm / alpha, level * sigma_data / norm.sqrt(), 1 / norm.sqrt() / alpha
    solved = {  # F = target and x_t = alpha x_0 + sigma eps, solved for x_0
        "eps": (1 / alpha, -sigma / alpha),
        "x_0": (0 * one, one),
        "v": (alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2)),
        "flow": (1 / (alpha + sigma), -sigma / (alpha + sigma)),
    }
    return *solved[kind], one


def target(kind: str, x_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float = 0.6) -> Tensor:
    """What the net of a kind should answer; scales (B,)."""
    a, s = (c.reshape(-1, *[1] * (x_0.ndim - 1)) for c in (alpha, sigma))
    if kind == "edm":
        c_skip, c_out, _ = (c.reshape(a.shape) for c in coefficients(kind, alpha, sigma, sigma_data))
        return (x_0 - c_skip * (a * x_0 + s * eps)) / c_out
    return {"eps": eps, "x_0": x_0, "v": a * eps - s * x_0, "flow": eps - x_0}[kind]
