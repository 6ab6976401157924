"""The variational bound of a diffusion model in nats per sample, term by term; `diffusion.density` has the other likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.denoiser import Denoise, full_precision
from diffusion.learned_variance import gaussian_kl, interpolated_log_variance, reverse_variances
from diffusion.process import expand, posterior
from rng.keyed import keyed_rand, keyed_randn
from diffusion.samplers.steps import Grid, Step, steps
from diffusion.schedules import NoiseSchedule

HALF_LEVEL = 1 / 255  # bytes lie 2 / 255 apart in [-1, 1]
LogVariance = Callable[[Tensor, Step], Tensor]


@dataclass
class Bound:
    """Upper bound of -log p(x_0), all in nats per sample.

    prior (B,): KL(q(x_T | x_0) || p(x_T)); steps (B, K): KL of the reverse kernels, each times `weight`, the number of
    steps it stands for, at the grid's steps `index` (B, K); decoder (B,): -log p(x_0 | x at the last time).
    """

    prior: Tensor
    steps: Tensor
    index: Tensor
    weight: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """prior + the sum of steps + decoder, (B,)."""
        return self.prior + self.steps.sum(1) + self.decoder


@torch.no_grad()
def variational_bound(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_0: Tensor,
    *,
    num_steps: int,
    seeds: Sequence[int] | Tensor,
    terms: int | None = None,
    variance: str | LogVariance = "large",
    decoder: str = "bytes",
    prior_std: float | None = None,
    grid: Grid | None = None,
    eps: Callable[[int], Tensor] | None = None,
) -> Bound:
    """The bound for x_0 (B, ...) on the num_steps steps of the grid that `ddpm` walks; each term is one evaluation.

    With `terms` < num_steps - 1, that many steps are drawn per sample, one uniformly from each of as many equal stretches
    of the grid: the bound is then an unbiased estimate. The noise of a sample is a function of its seed and of the step.
    Args: variance: small, large, learned (see `ddpm`) or log_variance(x_t, step) broadcast to x_t; decoder: bytes, the
    probability of a byte under a Gaussian rounded to 256 levels with open ends, or density; its variance is that of the
    step, for `small` (which is 0 there) the large one; prior_std: of p(x_T), `standard_prior_std` unless given; eps(step):
    the noise (B, ...) in place of the keyed one.
    Raises: ValueError for an unknown variance or decoder, or terms outside 1 to num_steps - 1.
    Source: Ho et al. 2020, eq. 5 and section 3.3; Kingma et al. 2021, eq. 11
    """
    if isinstance(variance, str) and variance not in ("small", "large", "learned") or decoder not in ("bytes", "density"):
        raise ValueError(f"variance={variance!r}, decoder={decoder!r}: small, large or learned; bytes or density")
    if terms is not None and not 1 <= terms <= max(num_steps - 1, 1):
        raise ValueError(f"terms={terms} of a bound of {num_steps} steps: between 1 and {num_steps - 1}")
    x_0 = full_precision(x_0)
    walk = list(steps(schedule, num_steps, grid, x_0))
    index, weight = _chosen(num_steps - 1, terms, seeds)
    shape = x_0.shape[1:]

    def noise(i: int) -> Tensor:
        return eps(i) if eps else keyed_randn(seeds, shape, "bound", i, device=x_0.device, dtype=x_0.dtype)

    found = []
    for k in range(index.shape[1]):
        column = index[:, k].tolist()
        if terms is None:  # the same step for all
            term = _term(denoise, x_0, noise(column[0]), [walk[column[0]]] * len(x_0), walk, variance)
        else:
            draw = [keyed_randn([s], shape, "bound", i, dtype=x_0.dtype) for s, i in zip(_integers(seeds), column)]
            z = torch.cat(draw).to(x_0.device)
            term = _term(denoise, x_0, z, [walk[i] for i in column], walk, variance)
        found.append(term)
    kl = torch.stack(found, 1) if found else x_0.new_zeros(len(x_0), 0)
    weight = weight.to(kl)
    last = _decoder_nats(denoise, x_0, noise(num_steps - 1), walk, variance, decoder)
    return Bound(_prior_kl(schedule, x_0, walk[0], prior_std), kl * weight, index, weight, last)


def standard_prior_std(schedule: NoiseSchedule) -> float:
    """Standard deviation of p(x_T): 1 where alpha² + sigma² = 1 at t = 1, else sigma(1), as for variance exploding."""
    one = torch.ones((), dtype=torch.float64)
    alpha, sigma = schedule.alpha(one).item(), schedule.sigma(one).item()
    return 1.0 if abs(alpha**2 + sigma**2 - 1) < 1e-6 else sigma


def even_log_snr(schedule: NoiseSchedule, low: float = -10.0, high: float = 12.5) -> Grid:
    """A grid that is even in log-SNR between t = 1 and clean data, as far as the schedule goes.

    Fixed variances cost about (log-SNR per step)² / 4 nats per dimension and step: a grid that is even in t has a few
    large steps, where rectified flow of 1000 steps pays more than a nat per dimension.
    """
    ends = schedule.log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    low, high = max(low, ends[0]), min(high, ends[1])

    def grid(num_steps: int) -> Tensor:
        log_snr = torch.linspace(low, high, max(num_steps - 1, 1), dtype=torch.float64)
        inner = schedule.t_from_log_snr(log_snr).double()
        first = torch.ones(1, dtype=torch.float64)
        if low == ends[0]:  # t = 1 is in already
            inner = schedule.t_from_log_snr(torch.linspace(low, high, num_steps, dtype=torch.float64)).double()[1:]
        return torch.cat([first, inner, 0 * first])

    return grid


def log_byte(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log probability of the byte at x in [-1, 1] under a Gaussian rounded to 256 levels, elementwise; open ends.

    Source: Ho et al. 2020, eq. 13
    """
    inverse, centred = torch.exp(-log_std), x - mean
    upper, lower = (centred + HALF_LEVEL) * inverse, (centred - HALF_LEVEL) * inverse
    # Mirrored to the side on which both tails are small, where their difference keeps its digits.
    mirrored = centred > 0
    high, low = torch.where(mirrored, -lower, upper), torch.where(mirrored, -upper, lower)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    inside = log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-1e-12)))
    first, last = x < HALF_LEVEL - 1, x > 1 - HALF_LEVEL
    above = torch.special.log_ndtr(-lower)
    return torch.where(first, torch.special.log_ndtr(upper), torch.where(last, above, inside))


def _chosen(num_terms: int, terms: int | None, seeds: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """(index, weight) (B, K): every step once, or one of each of K stretches and how many steps the stretch has."""
    if terms is None:
        index = torch.arange(num_terms).expand(len(seeds), -1)
        return index, torch.ones(len(seeds), num_terms)
    edges = torch.tensor([k * num_terms // terms for k in range(terms + 1)])
    size = edges.diff()
    u = keyed_rand(seeds, "bound", "steps", shape=(terms,))  # (B, K)
    return edges[:-1] + (u * size).long().clamp(max=size - 1), size.expand(len(seeds), -1)


def _integers(seeds: Sequence[int] | Tensor) -> list[int]:
    return seeds.tolist() if isinstance(seeds, Tensor) else [int(s) for s in seeds]


def _log_variance(variance: str | LogVariance, x_t: Tensor, v: Tensor | None, step: Step, walk: list[Step]) -> Tensor:
    if callable(variance):
        return variance(x_t, step)
    small, large = reverse_variances(step.alpha, step.sigma, step.alpha_u, step.sigma_u)
    if v is not None:
        if step.t_u is None:  # 0 on the last step: that of the step before, as in the authors' code
            before = walk[step.index - 1] if step.index else step
            small = reverse_variances(before.alpha, before.sigma, before.alpha_u, before.sigma_u)[0] or large
        return interpolated_log_variance(v.to(x_t.dtype), small, large)
    return torch.full_like(x_t, math.log(small if variance == "small" and step.t_u is not None else large))


def _estimate(denoise: Denoise, x_0: Tensor, z: Tensor, each: list[Step], variance) -> tuple[Tensor, ...]:
    scale = lambda values: expand(torch.tensor(values, dtype=x_0.dtype, device=x_0.device), x_0)  # noqa: E731
    x_t = scale([s.alpha for s in each]) * x_0 + scale([s.sigma for s in each]) * z
    t = torch.tensor([s.t for s in each], dtype=x_0.dtype, device=x_0.device)
    return (x_t, *(denoise.with_variance(x_t, t) if variance == "learned" else (denoise(x_t, t), None)))


def _term(denoise: Denoise, x_0: Tensor, z: Tensor, each: list[Step], walk: list[Step], variance) -> Tensor:
    x_t, x_0_hat, v = _estimate(denoise, x_0, z, each, variance)
    nats = []
    for i, step in enumerate(each):
        _, c_x_0, var = posterior(step.alpha, step.sigma, step.alpha_u, step.sigma_u)
        row = slice(i, i + 1)
        log_var = _log_variance(variance, x_t[row], None if v is None else v[row], step, walk)
        log_q = torch.full_like(x_t[row], math.log(var))
        # the means differ by x_0 - x_0_hat alone
        nats.append(gaussian_kl(c_x_0 * x_0[row], log_q, c_x_0 * x_0_hat[row], log_var).sum())
    return torch.stack(nats)


def _decoder_nats(denoise: Denoise, x_0: Tensor, z: Tensor, walk: list[Step], variance, decoder: str) -> Tensor:
    x_t, x_0_hat, v = _estimate(denoise, x_0, z, [walk[-1]] * len(x_0), variance)
    log_var = _log_variance(variance, x_t, v, walk[-1], walk)
    if decoder == "bytes":
        return -log_byte(x_0, x_0_hat, log_var / 2).flatten(1).sum(1)
    squared = (x_0 - x_0_hat).square() * torch.exp(-log_var)
    return 0.5 * (squared + log_var + math.log(2 * math.pi)).flatten(1).sum(1)


def _prior_kl(schedule: NoiseSchedule, x_0: Tensor, first: Step, prior_std: float | None) -> Tensor:
    std = standard_prior_std(schedule) if prior_std is None else prior_std
    zero = torch.zeros_like(x_0)
    log_q, log_p = zero + 2 * math.log(first.sigma), zero + 2 * math.log(std)
    return gaussian_kl(first.alpha * x_0, log_q, zero, log_p).flatten(1).sum(1)
