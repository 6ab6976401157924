"""Noise schedules: the scales of x_t = alpha(t) x_0 + sigma(t) eps for t in [0, 1], where 0 is clean and 1 is noise.

Inside, everything is float64 (1 - alpha_bar cancels badly in float32); answers come back in the dtype of t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class NoiseSchedule:
    """Scales alpha(t), sigma(t) and log_snr(t) = log(alpha²/sigma²), which falls strictly with t; t of any shape.

    A subclass gives `_log_scales`; sigma(0) = 0 and alpha(1) = 0 are allowed (log_snr is then +inf or -inf).
    """

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(log alpha, log sigma), both float64, for float64 t."""
        raise NotImplementedError

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the clean sample at t."""
        return self._log_scales(t.double())[0].exp().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t."""
        return self._log_scales(t.double())[1].exp().to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha²/sigma²) at t.

        Source: Kingma et al. 2021 (VDM), eq. 3
        """
        log_alpha, log_sigma = self._log_scales(t.double())
        return (2 * (log_alpha - log_sigma)).to(t.dtype)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t in [0, 1] whose log_snr is given; values outside the schedule's range give 0 or 1."""
        target = log_snr.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):  # bisection: every schedule is monotone, not every one has a closed inverse
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > target
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return ((low + high) / 2).to(log_snr.dtype)

    def log_snr_slope(self, t: Tensor) -> Tensor:
        """d log_snr / dt (negative), taken at least 1e-5 away from the ends, where it may be infinite."""
        with torch.enable_grad():
            inner = t.detach().double().clamp(1e-5, 1 - 1e-5).requires_grad_()
            (slope,) = torch.autograd.grad(self.log_snr(inner).sum(), inner)
        return slope.to(t.dtype)

    def grid(self, num_steps: int) -> Tensor:
        """The num_steps + 1 times a sampler visits, float64, from 1 down to 0, evenly spaced in t.

        Source: Lin et al. 2023, section 3.3 ("trailing": the grid includes t = 1)
        """
        return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


class CosineSchedule(NoiseSchedule):
    """alpha = cos(pi t / 2) squeezed to log_snr in [log_snr_min, log_snr_max], then shifted by `shift`.

    shift = 2 ln(64 / image_size) keeps the noise of a larger image as destructive as at 64 pixels.
    Source: Nichol & Dhariwal 2021, eq. 17 (offset replaced by the bounds); Hoogeboom et al. 2023, eq. 4
    """

    def __init__(self, log_snr_min: float = -20.0, log_snr_max: float = 20.0, shift: float = 0.0) -> None:
        if not log_snr_min < log_snr_max:
            raise ValueError(f"log_snr_min={log_snr_min} must be below log_snr_max={log_snr_max}")
        self.shift = shift
        self._angle_0 = math.atan(math.exp(-log_snr_max / 2))
        self._angle_1 = math.atan(math.exp(-log_snr_min / 2))

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = self._angle_0 + t * (self._angle_1 - self._angle_0)
        log_snr = self.shift - 2 * torch.log(torch.tan(angle))
        return F.logsigmoid(log_snr) / 2, F.logsigmoid(-log_snr) / 2

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        angle = torch.atan(torch.exp((self.shift - log_snr.double()) / 2))
        return ((angle - self._angle_0) / (self._angle_1 - self._angle_0)).clamp(0, 1).to(log_snr.dtype)


class LinearSchedule(NoiseSchedule):
    """The DDPM table: beta rises linearly over num_train_steps; alpha_bar(t) is exact at t = step / num_train_steps.

    Between grid points log alpha_bar is interpolated. Betas are those of 1000 steps, scaled by 1000 / num_train_steps.
    Source: Ho et al. 2020, section 4
    """

    def __init__(self, num_train_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        scale = 1000 / num_train_steps
        if not 0 < beta_start <= beta_end or not beta_end * scale < 1:
            raise ValueError(
                f"beta_start={beta_start}, beta_end={beta_end} with num_train_steps={num_train_steps}: "
                "needs 0 < beta_start <= beta_end and beta_end * 1000 / num_train_steps < 1"
            )
        self.num_train_steps = num_train_steps
        # On the CPU also where a model is built on torch.device("meta"): the table is data, not a parameter.
        beta = torch.linspace(
            beta_start * scale, beta_end * scale, num_train_steps, dtype=torch.float64, device=torch.device("cpu")
        )
        # (num_train_steps + 1,), step 0 is clean; a copy per device, since copying at every call would stall a GPU.
        self._log_alpha_bar = {torch.device("cpu"): F.pad(torch.log1p(-beta).cumsum(0), (1, 0))}

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        table = self._log_alpha_bar.get(t.device)
        if table is None:
            table = self._log_alpha_bar[t.device] = self._log_alpha_bar[torch.device("cpu")].to(t.device)
        position = t.clamp(0, 1) * self.num_train_steps
        below = position.detach().floor().clamp(max=self.num_train_steps - 1).long()
        log_alpha_bar = torch.lerp(table[below], table[below + 1], position - below)
        return log_alpha_bar / 2, torch.log(-torch.expm1(log_alpha_bar)) / 2


class KarrasSchedule(NoiseSchedule):
    """Variance exploding: alpha = 1, sigma from sigma_min at t = 0 to sigma_max at t = 1, even in sigma^(1 / rho).

    Source: Karras et al. 2022 (EDM), eq. 5
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: needs 0 < sigma_min < sigma_max")
        self.rho = rho
        self._root_min, self._root_max = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        root = self._root_min + t * (self._root_max - self._root_min)
        return torch.zeros_like(root), self.rho * torch.log(root)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        root = torch.exp(-log_snr.double() / (2 * self.rho))
        return ((root - self._root_min) / (self._root_max - self._root_min)).clamp(0, 1).to(log_snr.dtype)

    def grid(self, num_steps: int) -> Tensor:
        """Visits sigma_max ... sigma_min in num_steps points, then clean data (the last entry; see samplers).

        Source: Karras et al. 2022 (EDM), eq. 5 with t_N = 0
        """
        return F.pad(torch.linspace(1, 0, num_steps, dtype=torch.float64), (0, 1))


class RectifiedFlowSchedule(NoiseSchedule):
    """Straight lines: alpha = 1 - t, sigma = t.

    Source: Liu et al. 2022 (rectified flow), eq. 1; Lipman et al. 2022, eq. 20 with sigma_min = 0
    """

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log1p(-t), torch.log(t)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double() / 2).to(log_snr.dtype)


class ZeroTerminalSNR(NoiseSchedule):
    """A variance-preserving schedule with alpha shifted and scaled: alpha(1) = 0 exactly, alpha(0) as it was.

    Source: Lin et al. 2023, algorithm 1
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        ends = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        alpha = schedule.alpha(ends)
        if not torch.allclose(alpha**2 + schedule.sigma(ends) ** 2, torch.ones_like(alpha)):
            raise ValueError(
                f"zero terminal SNR needs a schedule with alpha² + sigma² = 1, not {type(schedule).__name__}"
            )
        self.schedule = schedule
        self._alpha_0, self._alpha_1 = alpha[0].item(), alpha[2].item()

    def _log_scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (self.schedule.alpha(t) - self._alpha_1) * (self._alpha_0 / (self._alpha_0 - self._alpha_1))
        alpha = alpha.clamp(0, 1)
        return torch.log(alpha), torch.log((1 - alpha) * (1 + alpha)) / 2


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule rescaled so that x_1 is pure noise; eps-prediction is then impossible at t = 1.

    Raises: ValueError unless alpha² + sigma² = 1.
    Source: Lin et al. 2023, algorithm 1
    """
    return ZeroTerminalSNR(schedule)
