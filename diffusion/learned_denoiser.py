"""A denoiser that also learns the variances of the reverse kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.denoiser import Denoiser, full_precision
from diffusion.learned_variance import hybrid_loss, interpolated_log_variance, reverse_variances, vlb_term
from diffusion.likelihood import log_byte
from diffusion.parameterisation import Row
from diffusion.process import add_noise, expand
from diffusion.schedules import NoiseSchedule


class LearnedVarianceDenoiser(Denoiser):
    """A denoiser whose net also learns the variances of the reverse kernels, by a second output of x's shape.

    Its loss is the hybrid one: the simple loss, and a thousandth of the variational bound with the means held fixed.

    Args:
        num_steps: steps T of the process whose variances are learned; training times lie on k/T.
    Source: Nichol & Dhariwal 2021, section 3.1
    """

    def __init__(
        self, net: Callable[..., Tensor], schedule: NoiseSchedule, prediction: str, num_steps: int, *, sigma_data: float = 0.5
    ) -> None:
        super().__init__(net, schedule, prediction, sigma_data=sigma_data)
        if num_steps < 2:
            raise ValueError(f"learned_variance_steps={num_steps}: give the number of steps, at least 2")
        self.num_steps = num_steps

    def both(self, x_t: Tensor, t: Tensor, coefficients: Row, **cond: Any) -> tuple[Tensor, Tensor]:
        """The output F and v in about [0, 1], (B, ...) each."""
        out = super().raw(x_t, t, coefficients, **cond)
        if out.shape[1] != 2 * x_t.shape[1]:
            raise ValueError(f"a learned variance needs a net with {2 * x_t.shape[1]} output channels, this one has {out.shape[1]}")
        out, v = out.chunk(2, dim=1)
        return out, (v + 1) / 2

    def raw(self, x_t: Tensor, t: Tensor, coefficients: Row, **cond: Any) -> Tensor:
        return self.both(x_t, t, coefficients, **cond)[0]

    def with_variance(self, x_t: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """x_0_hat and v, (B, ...) each: v = 0 is the small reverse variance and v = 1 the large one."""
        x_t = full_precision(x_t)
        c = self.row(t)
        out, v = self.both(x_t, t, c, **cond)
        return expand(c.c_skip, x_t) * x_t + expand(c.c_out, x_t) * out, v

    def loss(self, x_0: Tensor, t: Tensor, eps: Tensor, weighting: str = "uniform", **options: Any) -> Tensor:
        """The hybrid loss per sample (B,); t on k/T. One call of the net serves both parts."""
        x_0 = full_precision(x_0)
        cond = {k: o for k, o in options.items() if k not in ("times", "weighting_kwargs")}
        x_t, c = add_noise(x_0, eps.to(x_0.dtype), t, self.schedule), self.row(t)
        out, v = self.both(x_t, t, c, **cond)
        simple = self.error(out, x_0, eps.to(x_0.dtype), t, weighting, options.get("times"), options.get("weighting_kwargs"))
        x_0_hat = expand(c.c_skip, x_t) * x_t + expand(c.c_out, x_t) * out
        term = self.term(x_0, x_t, x_0_hat, v, t)
        return hybrid_loss(simple, term, x_0[0].numel(), self.num_steps)

    def term(self, x_0: Tensor, x_t: Tensor, x_0_hat: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The bound's term of the step from t to t - 1/T, (B,) in nats, with a gradient for v alone.

        The last step, to clean data, is the decoder of bytes. Its variance lies between the step's own, sigma(t)², and the
        small one of the step before, since its own small variance is 0.
        Source: Nichol & Dhariwal 2021, section 3.1, and their code for the last step
        """
        schedule, last = self.schedule, t < 1.5 / self.num_steps
        t_kernel = torch.where(last, t + 1 / self.num_steps, t)
        u = t_kernel - 1 / self.num_steps
        scales = (schedule.alpha(t_kernel), schedule.sigma(t_kernel), schedule.alpha(u), schedule.sigma(u))
        kernel = vlb_term(x_0, x_t, x_0_hat, v, *scales)
        small, _ = reverse_variances(*(expand(c.double(), x_0.double()) for c in scales))
        own = expand(schedule.sigma(t).double(), x_0.double()) ** 2
        log_var = interpolated_log_variance(v, small.to(x_0.dtype), own.to(x_0.dtype))
        decoder = -log_byte(x_0, x_0_hat.detach(), log_var / 2).flatten(1).sum(1)
        return torch.where(last, decoder, kernel)
