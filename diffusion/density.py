"""Log density of a diffusion model by its probability-flow equation, exact up to the solver, in nats per sample.

In z = x_t / sqrt(alpha² + sigma²) and the angle with tan(angle) = sigma / alpha every schedule has the same equation,
dz / dangle = (cos(angle) z - x_0_hat) / sin(angle), finite at alpha = 0, so one solver serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.likelihood import standard_prior_std
from diffusion.process import expand
from rng.keyed import keyed_generators, keyed_randn
from diffusion.schedules import NoiseSchedule

DIVERGENCES = ("exact", "rademacher", "gaussian")
LAST = 0.05  # angle before pure noise from which one step goes all the way


@dataclass
class FlowDensity:
    """log_density (B,) in nats per sample, x_T (B, ...) the noise that x_0 came from, evaluations of the denoiser."""

    log_density: Tensor
    x_T: Tensor
    evaluations: int


@torch.no_grad()
def flow_log_density(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_0: Tensor,
    *,
    seeds: Sequence[int] | Tensor | None = None,
    divergence: str = "rademacher",
    method: str = "dopri5",
    tolerance: float = 1e-5,
    num_steps: int = 100,
    ratio_0: float = 1e-3,
    spacing: str = "even",
    log_prior: Callable[[Tensor], Tensor] | None = None,
) -> FlowDensity:
    """log p(x_0) for x_0 (B, ...), where p is the density of the model's clean data plus noise of std ratio_0.

    That is a proper density, it integrates to 1, and as ratio_0 (or the schedule's smallest sigma / alpha, if greater)
    falls it becomes that of the data, with an error of order ratio_0². For bytes give x_0 dequantised by uniform noise.

    Args:
        divergence: exact takes one backward pass per dimension; rademacher and gaussian are Hutchinson's unbiased
            estimate with one probe per sample, keyed by its seed and the same along the path.
        method: dopri5 with `tolerance`, whose steps the whole batch shares, or rk4 with `num_steps` steps, which depend on
            no batch.
        spacing: of rk4's steps, even in the angle or in log-SNR. The latter follows the data's finest noise with few steps,
            and a model that predicts noise, whose estimate of x_0 errs by 1 / alpha, to the noisy end.
        log_prior: of x_T, gives (B,); None is that of N(0, s²), s = `standard_prior_std`.
    Raises: ValueError for an unknown divergence or method, or an estimate without seeds.
    Source: Song et al. 2021 (score SDE), section 4.3 and appendix D.2; Grathwohl et al. 2019 (FFJORD), eq. 8
    """
    if divergence not in DIVERGENCES or method not in ("dopri5", "rk4"):
        raise ValueError(f"divergence={divergence!r}, method={method!r}: {', '.join(DIVERGENCES)}; dopri5 or rk4")
    if spacing not in ("even", "log_snr") or num_steps < 1:
        raise ValueError(f"spacing={spacing!r}, num_steps={num_steps}: even or log_snr; at least 1")
    if divergence != "exact" and seeds is None:
        raise ValueError(f"divergence={divergence!r} draws a probe per sample: give seeds, or divergence='exact'")
    x_0 = full_precision(x_0)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = schedule.alpha(ends).tolist(), schedule.sigma(ends).tolist()
    start, end = max(math.atan(ratio_0), math.atan2(sigma[0], alpha[0])), math.atan2(sigma[1], alpha[1])
    field = _Field(denoise, schedule, _probe(divergence, seeds, x_0))
    state = math.cos(start) * x_0, x_0.new_zeros(len(x_0))
    if method == "rk4":
        z, change = _rk4(field, *state, _angles(start, end, num_steps, spacing))
    else:
        from torchdiffeq import odeint

        path = torch.tensor([start, end], dtype=torch.float64, device=x_0.device)
        z, change = (part[-1] for part in odeint(field, state, path, rtol=tolerance, atol=tolerance, method=method))
    dim, radius = x_0[0].numel(), math.hypot(alpha[1], sigma[1])
    x_T = radius * z
    if log_prior is not None:
        log_p = log_prior(x_T)
    else:
        std = standard_prior_std(schedule)
        log_p = -0.5 * (x_T / std).square().flatten(1).sum(1) - dim * (math.log(std) + 0.5 * math.log(2 * math.pi))
    # From the density of x_T to that of z, along the path, and from z to x_0.
    log_p = log_p + dim * math.log(radius) + change + dim * math.log(math.cos(start))
    return FlowDensity(log_p, x_T, field.evaluations)


class _Field:
    """(dz, divergence) at an angle; the divergence adds to the log density on the way to the noise."""

    def __init__(self, denoise: Denoise, schedule: NoiseSchedule, probe: Tensor | None) -> None:
        self.denoise, self.schedule, self.probe, self.evaluations = denoise, schedule, probe, 0

    def __call__(self, angle: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        z, angle, self.evaluations = state[0], angle.double().cpu(), self.evaluations + 1
        log_snr = -2 * torch.log(torch.tan(angle)) if angle < math.pi / 2 else torch.tensor(-math.inf).double()
        t = self.schedule.t_from_log_snr(log_snr).to(z.dtype)
        radius = torch.hypot(self.schedule.alpha(t.double()), self.schedule.sigma(t.double())).item()
        cos, sin = math.cos(angle), math.sin(angle)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x_0_hat = self.denoise(radius * z, t.to(z.device).expand(len(z)))
            trace = _trace(x_0_hat, z, self.probe)
        size = z[0].numel() if self.probe is None else self.probe.square().flatten(1).sum(1)
        return (cos * z.detach() - x_0_hat.detach()) / sin, (cos * size - trace) / sin


def _trace(x_0_hat: Tensor, z: Tensor, probe: Tensor | None) -> Tensor:
    """The trace of d x_0_hat / dz per sample (B,), or probe . J probe, whose expectation it is."""
    if probe is not None:
        (product,) = torch.autograd.grad(x_0_hat, z, probe)
        return (product * probe).flatten(1).sum(1)
    flat, total = x_0_hat.flatten(1), 0
    for d in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, d].sum(), z, retain_graph=True)
        total = total + row.flatten(1)[:, d]
    return total


def _probe(divergence: str, seeds: Sequence[int] | Tensor | None, x: Tensor) -> Tensor | None:
    if divergence == "exact":
        return None
    if divergence == "gaussian":
        return keyed_randn(seeds, x.shape[1:], "hutchinson", device=x.device, dtype=x.dtype)
    generators = keyed_generators(seeds, "hutchinson")
    signs = torch.stack([torch.randint(0, 2, x.shape[1:], generator=g) for g in generators])
    return (2 * signs - 1).to(x)


def _angles(start: float, end: float, num_steps: int, spacing: str) -> list[float]:
    """The num_steps + 1 angles that the solver visits."""
    if spacing == "even":
        return [start + i / num_steps * (end - start) for i in range(num_steps + 1)]
    no_signal = end > math.pi / 2 - 1e-6 and num_steps > 1  # log-SNR is -inf there: reached in one step from LAST on
    low, high = math.log(math.tan(start)), math.log(math.tan(math.pi / 2 - LAST if no_signal else end))
    steps = num_steps - no_signal
    path = [math.atan(math.exp(low + i / steps * (high - low))) for i in range(steps + 1)]
    return path + [end] if no_signal else [*path[:-1], end]


def _rk4(field: _Field, z: Tensor, change: Tensor, angles: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The classical fourth-order rule; the change does not feed back into the field."""
    at = lambda angle: torch.tensor(angle, dtype=torch.float64)  # noqa: E731
    for angle, following in zip(angles, angles[1:]):
        h = following - angle
        z_1, d_1 = field(at(angle), (z, change))
        z_2, d_2 = field(at(angle + h / 2), (z + h / 2 * z_1, change))
        z_3, d_3 = field(at(angle + h / 2), (z + h / 2 * z_2, change))
        z_4, d_4 = field(at(angle + h), (z + h * z_3, change))
        z = z + h / 6 * (z_1 + 2 * z_2 + 2 * z_3 + z_4)
        change = change + h / 6 * (d_1 + 2 * d_2 + 2 * d_3 + d_4)
    return z, change
