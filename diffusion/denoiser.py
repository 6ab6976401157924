"""From a network to `denoise(x_t, t) -> x_0_hat`, and the loss that trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.parameterisation import NEEDS_SIGNAL, Row, check_prediction, row
from diffusion.process import add_noise, expand
from diffusion.schedules import NoiseSchedule
from diffusion.times import Times, UniformTimes
from diffusion.weighting import WEIGHTINGS, loss_weight

Denoise = Callable[..., Tensor]
LOG_SNR_LIMIT = 20.0


class Denoiser(nn.Module):
    """`denoiser(x_t, t, **cond) -> x_0_hat` from a net called as `net(c_in x_t, log_snr, **cond)`.

    x_t is (B, ...) of any shape, t (B,) in [0, 1]. x_0_hat is float32 (float64 for float64 x_t) whatever the net
    computes in. The net sees log_snr (B,) clamped to ±20.

    Args:
        net: a module or function.
        schedule: the noise levels.
        prediction: what the net's output stands for, a row of diffusion.parameterisation.
        sigma_data: standard deviation of the data, for prediction edm.
    Raises: ValueError for a prediction that the schedule rules out.
    Source: Karras et al. 2022 (EDM), eq. 7, in terms of x_t = alpha x_0 + sigma eps
    """

    def __init__(
        self, net: Callable[..., Tensor], schedule: NoiseSchedule, prediction: str = "v", *, sigma_data: float = 0.5
    ) -> None:
        super().__init__()
        check_prediction(prediction)
        if not sigma_data > 0:
            raise ValueError(f"sigma_data={sigma_data}: give the standard deviation of the data, above 0")
        if prediction in NEEDS_SIGNAL and schedule.alpha(torch.ones(1, device="cpu")).item() == 0:
            where = f"t = 1 of {type(schedule).__name__}"
            raise ValueError(
                f"prediction={prediction!r} cannot recover x_0 where alpha = 0 ({where}): use v, x_0, flow or edm"
            )
        self.net, self.schedule, self.prediction, self.sigma_data = net, schedule, prediction, sigma_data

    def row(self, t: Tensor) -> Row:
        """Coefficients (B,) at t (B,)."""
        return row(self.prediction, self.schedule.alpha(t), self.schedule.sigma(t), self.sigma_data)

    def raw(self, x_t: Tensor, t: Tensor, coefficients: Row, **cond: Any) -> Tensor:
        """The output F of the net (B, ...) in x_t's precision."""
        log_snr = self.schedule.log_snr(t).to(x_t.dtype).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        return self.net(expand(coefficients.c_in, x_t) * x_t, log_snr, **cond).to(x_t.dtype)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """x_0_hat (B, ...)."""
        x_t = full_precision(x_t)
        c = self.row(t)
        return expand(c.c_skip, x_t) * x_t + expand(c.c_out, x_t) * self.raw(x_t, t, c, **cond)

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What F should be, (B, ...)."""
        c = self.row(t)
        return expand(c.on_x_0, x_0) * x_0 + expand(c.on_eps, x_0) * eps

    def loss(
        self,
        x_0: Tensor,
        t: Tensor,
        eps: Tensor,
        weighting: str = "uniform",
        *,
        times: Times | None = None,
        weighting_kwargs: dict[str, float] | None = None,
        **cond: Any,
    ) -> Tensor:
        """Weighted squared error per sample (B,), a mean over dimensions.

        Args:
            x_0, eps: (B, ...); t (B,) in [0, 1].
            weighting: of `diffusion.weighting`; weighting_kwargs are its parameters.
            times: the distribution that t was drawn from; None is uniform.
        Source: Ho et al. 2020, eq. 14; Karras et al. 2022, eq. 8
        """
        x_0 = full_precision(x_0)
        eps = eps.to(x_0.dtype)
        out = self.raw(add_noise(x_0, eps, t, self.schedule), t, self.row(t), **cond)
        return self.error(out, x_0, eps, t, weighting, times, weighting_kwargs)

    def error(
        self,
        out: Tensor,
        x_0: Tensor,
        eps: Tensor,
        t: Tensor,
        weighting: str,
        times: Times | None,
        weighting_kwargs: dict[str, float] | None,
    ) -> Tensor:
        """Weighted squared error (B,) of an output F (B, ...)."""
        check_weighting(weighting)
        c = self.row(t)
        options: dict[str, Any] = {"sigma_data": self.sigma_data} | dict(weighting_kwargs or {})
        if weighting == "sigmoid":
            options["density"] = (times or UniformTimes()).density(t, self.schedule)
        log_snr = self.schedule.log_snr(t).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
        weight = loss_weight(weighting, c, log_snr, **options)
        return weight.to(x_0.dtype) * (out - self.target(x_0, eps, t)).square().flatten(1).mean(1)


def check_weighting(weighting: str) -> None:
    """Raises: ValueError for an unknown weighting."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")


def full_precision(x: Tensor) -> Tensor:
    """x in float64 if it was, else float32."""
    return x if x.dtype == torch.float64 else x.float()
