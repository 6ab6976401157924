"""Which noise levels a net is trained on: distributions of t, drawn by inversion from uniform numbers.

Inversion keeps evenly spread uniform numbers evenly spread, and their density is known, so that a weighting can divide
it out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedules import NoiseSchedule

EDGE = 1e-4  # quantiles are kept this far from 0 and 1, where normal distributions end at infinity


class Times:
    """A distribution of t in [0, 1]."""

    def draw(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """t (B,) whose quantiles are u (B,) in [0, 1)."""
        raise NotImplementedError

    def density(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Probability density (B,) of the noise levels at t (B,), per unit of log_snr."""
        raise NotImplementedError


class UniformTimes(Times):
    """t uniform in [0, 1]. Source: Kingma et al. 2021 (VDM), section 4"""

    def draw(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        return u

    def density(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return 1 / -schedule.log_snr_slope(t)


class GridTimes(UniformTimes):
    """t uniform on 1/num_train_steps, 2/num_train_steps, ..., 1, the steps of a table of betas.

    Source: Ho et al. 2020, algorithm 1
    """

    def __init__(self, num_train_steps: int = 1000) -> None:
        if num_train_steps < 1:
            raise ValueError(f"num_train_steps={num_train_steps}: give a whole number of at least 1")
        self.num_train_steps = num_train_steps

    def draw(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        return ((u * self.num_train_steps).floor() + 1) / self.num_train_steps


class NormalLogSNR(Times):
    """log_snr normal with a mean and a standard deviation, to train where pictures are decided.

    EDM's ln sigma ~ N(-1.2, 1.2²) is log_snr ~ N(2.4, 2.4²).
    Raises: ValueError unless std > 0.
    Source: Karras et al. 2022 (EDM), table 1
    """

    def __init__(self, mean: float = 2.4, std: float = 2.4) -> None:
        if not std > 0:
            raise ValueError(f"times: std={std} must be above 0")
        self.mean, self.std = mean, std

    def draw(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        log_snr = self.mean + self.std * torch.special.ndtri(u.clamp(EDGE, 1 - EDGE))
        return schedule.t_from_log_snr(log_snr.clamp(-19, 19))

    def density(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        return _normal((schedule.log_snr(t) - self.mean) / self.std) / self.std


class LogitNormalTimes(Times):
    """logit(t) normal with a mean and a standard deviation: more of the middle of a rectified flow.

    Raises: ValueError unless std > 0.
    Source: Esser et al. 2024 (Stable Diffusion 3), section 3.1
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if not std > 0:
            raise ValueError(f"times: std={std} must be above 0")
        self.mean, self.std = mean, std

    def draw(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.clamp(EDGE, 1 - EDGE)))

    def density(self, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        per_t = _normal((torch.logit(t) - self.mean) / self.std) / (self.std * t * (1 - t))
        return per_t / -schedule.log_snr_slope(t)


def _normal(z: Tensor) -> Tensor:
    return torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
