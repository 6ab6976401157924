"""Likelihoods of pixels: what a decoder's output says about the probability of an image, in nats per image.

A decoder gives `params` (..., P, H, W), unbounded, with P = num_params(C); images are (..., C, H, W) in [-1, 1], and
leading dimensions broadcast, so that many latents of one image share it. Half precision is computed in float32, float64
stays float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.precision import full_precision
from objectives.processes import mean_over_processes
from objectives.univariate import (
    draw_level,
    inside_unit_interval,
    langevin,
    level_mean,
    levels,
    log_level,
    log_sinhc,
)

MIN_VARIANCE = 1e-6  # below that of rounding to bytes, (2 / 255)^2 / 12 = 5e-6


class PixelLikelihood(nn.Module):
    """p(image | params), with pixels independent given the params.

    `density` says whether log_prob is a density of pixels in [-1, 1] or a probability, of bytes or of black and white.
    """

    density = False
    of_the_batch = False  # whether log_prob of an image, in training, depends on the other images of the batch

    def num_params(self, channels: int) -> int:
        """Channels that the decoder must give for images of `channels`."""
        return channels

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        """log p(image | params) in nats, (...,)."""
        raise NotImplementedError

    def mean(self, params: Tensor) -> Tensor:
        """Expected image (..., C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def noise_shape(self, params: Tensor) -> tuple[int, ...]:
        """Shape of the uniform numbers that sample() takes, leading dimensions included."""
        return tuple(params.shape)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Images (..., C, H, W) in [-1, 1], a function of params and of uniform numbers in [0, 1) of noise_shape()."""
        raise NotImplementedError

    def check(self, image: Tensor) -> None:
        """Raises: ValueError, with what to do, for pixels that this likelihood does not describe."""
        if not (image.abs() <= 1 + 1e-4).all():
            low, high = float(image.min()), float(image.max())
            raise ValueError(f"pixels between {low:.4g} and {high:.4g}: images must lie in [-1, 1]")


class Bernoulli(PixelLikelihood):
    """Black (-1) and white (1) pixels, params are the logits of white; a probability.

    Source: Kingma & Welling 2014, appendix C.1
    """

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        params, image = full_precision(params), full_precision(image)
        return per_image(F.logsigmoid(params * image))  # for -1 and 1 this is the cross-entropy, without cancellation

    def mean(self, params: Tensor) -> Tensor:
        return torch.tanh(full_precision(params) / 2)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return (noise < full_precision(params).sigmoid()).to(noise.dtype) * 2 - 1

    def check(self, image: Tensor) -> None:
        grey = int((image.abs() != 1).sum())
        if grey:
            raise ValueError(
                f"{grey} of {image.numel()} pixels are neither -1 nor 1, and a Bernoulli is no likelihood of grey "
                "values: set data.binarize=dynamic or choose another likelihood"
            )


class ContinuousBernoulli(PixelLikelihood):
    """Grey values y = (image + 1) / 2 with a density proportional to lambda^y (1 - lambda)^(1 - y); params are logits.

    With u = logit(lambda) / 2 the density of x in [-1, 1] is exp(u x) u / (2 sinh u), uniform at lambda = 1/2.

    Source: Loaiza-Ganem & Cunningham 2019, section 3, in natural parameters
    """

    density = True

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        u = full_precision(params) / 2
        return per_image(u * image - log_sinhc(u) - math.log(2))

    def mean(self, params: Tensor) -> Tensor:
        return langevin(full_precision(params) / 2)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        logit, noise = full_precision(params), inside_unit_interval(noise)
        size = logit.abs().clamp(min=1e-4)  # the difference to a uniform density is then below 1e-4
        # Inverse distribution function for a density that falls with y; one that rises is its mirror image.
        falling = torch.where(logit > 0, 1 - noise, noise)
        y = -torch.log1p(falling * torch.expm1(-size)) / size
        return (torch.where(logit > 0, 1 - y, y) * 2 - 1).clamp(-1, 1)


class Gaussian(PixelLikelihood):
    """Pixels around params with one variance for all; a density, its normaliser included.

    Args:
        variance: `learned` (a parameter, started at 0.1); `optimal` (in training, the mean squared error of the
            batch over all processes, where the likelihood is greatest; otherwise a running mean of it, kept with the
            weights); or a positive number.

    Raises: ValueError for another variance.
    Source: Rybkin et al. 2021 (sigma-VAE), one shared variance, learned and in closed form
    """

    density = True

    def __init__(self, variance: str | float = "learned") -> None:
        super().__init__()
        self.variance_kind = variance if isinstance(variance, str) else "fixed"
        if self.variance_kind == "learned":
            self.log_variance = nn.Parameter(torch.tensor(math.log(0.1)))
        elif self.variance_kind == "optimal":
            self.of_the_batch = True
            self.register_buffer("running_variance", torch.tensor(0.1))
            self.register_buffer("batches", torch.tensor(0))
        elif self.variance_kind == "fixed" and math.isfinite(variance) and variance > 0:
            self.fixed_variance = float(variance)
        else:
            raise ValueError(f"variance={variance!r} of the Gaussian: give learned, optimal or a positive number")

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        squared = (full_precision(params) - image).square()
        variance = self._optimal(squared) if self.variance_kind == "optimal" and self.training else self.variance()
        log_variance = variance.log() if isinstance(variance, Tensor) else math.log(variance)
        return per_image(-0.5 * (squared / variance + log_variance + math.log(2 * math.pi)))

    def variance(self) -> Tensor | float:
        """The variance outside training, a scalar."""
        if self.variance_kind == "learned":
            return self.log_variance.exp() + MIN_VARIANCE  # a clamp would hold it there for ever
        return self.running_variance if self.variance_kind == "optimal" else self.fixed_variance

    def mean(self, params: Tensor) -> Tensor:
        return full_precision(params).clamp(-1, 1)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        eps = torch.special.ndtri(inside_unit_interval(noise))
        return (full_precision(params) + self.variance() ** 0.5 * eps).clamp(-1, 1)

    @torch.no_grad()
    def _optimal(self, squared: Tensor) -> Tensor:
        """The batch's mean squared error, without gradient: where the likelihood is greatest it has none."""
        variance = mean_over_processes(squared.mean()).clamp(min=MIN_VARIANCE)
        self.batches += 1
        weight = (1 / self.batches).clamp(min=0.01)  # a plain mean of the first hundred batches, then exponential
        self.running_variance.lerp_(variance.to(self.running_variance), weight.to(self.running_variance))
        return variance


class DiscretizedLogistic(PixelLikelihood):
    """Bytes as a logistic variable rounded to 256 levels, its tails in the outermost; params are means and log scales.

    The expected image is that of the unrounded variable, less than half a level away.

    Source: Salimans et al. 2017 (PixelCNN++), eq. 2, with one component; Kingma et al. 2016, section 5.1
    """

    def num_params(self, channels: int) -> int:
        return 2 * channels

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        mean, log_scale = self._split(params)
        return per_image(log_level(image, mean, log_scale))

    def mean(self, params: Tensor) -> Tensor:
        return level_mean(*self._split(params))

    def noise_shape(self, params: Tensor) -> tuple[int, ...]:
        return (*params.shape[:-3], params.shape[-3] // 2, *params.shape[-2:])

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return draw_level(*self._split(params), noise)

    def check(self, image: Tensor) -> None:
        check_levels(image)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = full_precision(params).chunk(2, dim=-3)
        return mean, log_scale


class DiscretizedLogisticMixture(PixelLikelihood):
    """Bytes as a mixture of discretised logistics per pixel; colours share the choice of the component.

    Within a component the mean of a channel moves linearly with the channels before it. The centres of the components
    start spread over [-1, 1], so that a decoder that begins with zeros has different components. The expected image
    takes earlier channels at their expectation, and is that of the unrounded variables.

    Args:
        components: of the mixture.

    Raises: ValueError for fewer than one component.
    Source: Salimans et al. 2017 (PixelCNN++), eqs. 1-3
    """

    def __init__(self, components: int = 5) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components={components} of the logistic mixture: give at least 1")
        self.components = components

    def num_params(self, channels: int) -> int:
        # A weight, C means, C log scales and C (C - 1) / 2 coefficients each: a triangular number.
        return self.components * (channels + 1) * (channels + 2) // 2

    def log_prob(self, params: Tensor, image: Tensor) -> Tensor:
        log_weight, means, log_scales, coefficients = self._split(params)
        pixels = image.unsqueeze(-3).unbind(-4)  # C of (..., 1, H, W)
        joint = log_weight
        for c, pixel in enumerate(pixels):
            mean = conditional_mean(means, coefficients, pixels[:c])
            joint = joint + log_level(pixel, mean, log_scales[..., c, :, :, :])
        return joint.logsumexp(-3).sum((-2, -1))

    def mean(self, params: Tensor) -> Tensor:
        log_weight, means, log_scales, coefficients = self._split(params)
        pixels: list[Tensor] = []
        for c in range(means.shape[-4]):
            pixels.append(level_mean(conditional_mean(means, coefficients, pixels), log_scales[..., c, :, :, :]))
        return (log_weight.exp().unsqueeze(-4) * torch.stack(pixels, -4)).sum(-3)

    def noise_shape(self, params: Tensor) -> tuple[int, ...]:
        return (*params.shape[:-3], 1 + self._channels(params), *params.shape[-2:])

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        log_weight, *rest = self._split(params)
        choice = (log_weight.exp().cumsum(-3) <= noise[..., :1, :, :]).sum(-3, keepdim=True)  # (..., 1, H, W)
        choice = choice.clamp(max=self.components - 1).unsqueeze(-4)
        means, log_scales, coefficients = (torch.take_along_dim(part, choice, -3) for part in rest)
        pixels: list[Tensor] = []
        for c in range(means.shape[-4]):
            mean = conditional_mean(means, coefficients, pixels)
            pixels.append(draw_level(mean, log_scales[..., c, :, :, :], noise[..., c + 1, None, :, :]))
        return torch.cat(pixels, -3)

    def check(self, image: Tensor) -> None:
        check_levels(image)

    def _channels(self, params: Tensor) -> int:
        each, rest = divmod(params.shape[-3], self.components)
        channels = (math.isqrt(8 * each + 1) - 3) // 2
        assert not rest and self.num_params(channels) == params.shape[-3], f"params {tuple(params.shape)}"
        return channels

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log weights (..., K, H, W); means, log scales (..., C, K, H, W); coefficients (..., C(C - 1)/2, K, H, W)."""
        channels = self._channels(params)
        parts = full_precision(params).unflatten(-3, (-1, self.components))  # (..., P / K, K, H, W)
        sizes = [1, channels, channels, channels * (channels - 1) // 2]
        logit, offsets, log_scales, coefficients = parts.split(sizes, -4)
        centres = 2 * (torch.arange(self.components, device=params.device) + 0.5) / self.components - 1
        means = offsets + centres.to(offsets.dtype)[:, None, None]
        return logit.squeeze(-4).log_softmax(-3), means, log_scales, coefficients.tanh()


# ---- what the classes share ----


def conditional_mean(means: Tensor, coefficients: Tensor, before: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Means (..., K, H, W) of the channel after those `before`, shifted linearly by them."""
    c = len(before)
    mean = means[..., c, :, :, :]
    for j, pixel in enumerate(before):
        mean = mean + coefficients[..., c * (c - 1) // 2 + j, :, :, :] * pixel
    return mean


def check_levels(image: Tensor) -> None:
    """Raises: ValueError for pixels that are not among the 256 levels of a byte."""
    between = int((((image + 1) * 127.5 - levels(image)).abs() > 0.01).sum()) + int((image.abs() > 1.001).sum())
    if between:
        raise ValueError(
            f"{between} of {image.numel()} pixels are none of the 256 levels of a byte in [-1, 1], and a discretised "
            "likelihood needs bytes: give it images as they are stored, or choose a density"
        )


def dequantise(image: Tensor, noise: Tensor) -> Tensor:
    """Bytes in [-1, 1] spread over their 256 bins by uniform numbers in [0, 1) of the same shape.

    A density of such images bounds the probability of the bytes: - E log p(dequantised) + 7 log 2 per dimension >= NLL.
    A density at the bytes themselves bounds nothing: it may grow without limit at 256 points.

    Source: Theis et al. 2016, section 3.1
    """
    return (levels(image) + noise) / 128 - 1


def per_image(x: Tensor) -> Tensor:
    """Sum over channels, rows and columns."""
    return x.sum((-3, -2, -1))
