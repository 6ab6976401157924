"""One pixel: the logistic variable rounded to bytes and the continuous Bernoulli, elementwise, without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from objectives.precision import full_precision

HALF_LEVEL = 1 / 255  # bytes lie 2 / 255 apart in [-1, 1]
LOG_SCALE_RANGE = 7.0  # exp(-7) puts 97 % on one byte; a sharper scale would make gradients explode
SERIES_BELOW = 0.25  # where coth(u) - 1 / u loses digits and its power series loses none


def log_level(image: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability of the byte at `image` under a logistic variable rounded to bytes, elementwise.

    With a and b the edges of the byte in units of the scale, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b)
    (1 - exp(b - a)), in which nothing cancels; an open tail drops the factors of the edge it lacks.
    """
    log_scale = log_scale.clamp(-LOG_SCALE_RANGE, LOG_SCALE_RANGE)
    per_scale, centred = torch.exp(-log_scale), image - mean
    below_top = F.logsigmoid((centred + HALF_LEVEL) * per_scale)
    above_bottom = F.logsigmoid((HALF_LEVEL - centred) * per_scale)
    width = torch.log(-torch.expm1(-2 * HALF_LEVEL * per_scale))
    first, last = image < HALF_LEVEL - 1, image > 1 - HALF_LEVEL
    inside = below_top + above_bottom + width
    return torch.where(first, below_top, torch.where(last, above_bottom, inside))


def level_mean(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Expectation of a logistic variable clamped to [-1, 1]: 1 minus the integral of its distribution function."""
    scale = log_scale.clamp(-LOG_SCALE_RANGE, LOG_SCALE_RANGE).exp()
    integral = scale * (F.softplus((1 - mean) / scale) - F.softplus((-1 - mean) / scale))
    return (1 - integral).clamp(-1, 1)


def draw_level(mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
    """A logistic variable rounded to bytes, from uniform numbers."""
    scale = log_scale.clamp(-LOG_SCALE_RANGE, LOG_SCALE_RANGE).exp()
    x = (mean + scale * torch.logit(inside_unit_interval(noise))).clamp(-1, 1)
    return levels(x) / 127.5 - 1


def levels(image: Tensor) -> Tensor:
    """The byte of each pixel, as a float in 0 to 255."""
    return ((image + 1) * 127.5).round()


def log_sinhc(u: Tensor) -> Tensor:
    """log(sinh(u) / u), elementwise, even, 0 at 0; exact and smooth everywhere."""
    small = u.abs() < SERIES_BELOW
    v = torch.where(small, u, 0.0).square()
    series = v * (1 / 6 + v * (-1 / 180 + v * (1 / 2835 + v * (-1 / 37800 + v / 467775))))
    size = torch.where(small, 1.0, u.abs())
    return torch.where(small, series, size + torch.log(-torch.expm1(-2 * size) / (2 * size)))


def langevin(u: Tensor) -> Tensor:
    """coth(u) - 1 / u, the derivative of log_sinhc, in (-1, 1)."""
    small = u.abs() < SERIES_BELOW
    v = torch.where(small, u, 0.0).square()
    series = u * (1 / 3 + v * (-1 / 45 + v * (2 / 945 + v * (-1 / 4725 + v * 2 / 93555))))
    large = torch.where(small, 1.0, u)
    return torch.where(small, series, 1 / torch.tanh(large) - 1 / large)


def inside_unit_interval(noise: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) moved off 0 and 1, where quantiles are infinite."""
    return full_precision(noise).clamp(2**-25, 1 - 2**-24)
