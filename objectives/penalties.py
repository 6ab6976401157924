"""Penalties on the slope of a discriminator, with gradients for its weights, and how to pay them lazily."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Discriminator = Callable[[Tensor], Tensor]  # images (B, ...) -> scores (B,), each a function of its own image alone


def r1(discriminator: Discriminator, real: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2 / 2 over real images (B, ...), a float32 scalar; multiply by gamma.

    The slope is taken in float32 with autocast off. It needs gradients (no torch.no_grad) and, for one image's score
    not to depend on another image, a discriminator without batch norm.

    Source: Mescheder et al. 2018, eq. 9
    """
    return half_square(scores_and_slope(discriminator, real)[1])


def r2(discriminator: Discriminator, fake: Tensor) -> Tensor:
    """E ||grad_x D(x)||^2 / 2 over generated images (B, ...): r1 on the other side; no gradient for the generator.

    Source: Mescheder et al. 2018, eq. 10
    """
    return r1(discriminator, fake)


def gradient_penalty(discriminator: Discriminator, real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """E (||grad_x D(x_hat)|| - 1)^2 at x_hat = u real + (1 - u) fake, a float32 scalar; multiply by 10, say.

    Precision and discriminator as for `r1`; no gradient for the generator.

    Args:
        real, fake: (B, ...).
        u: (B,) uniform in [0, 1], which the caller draws.
    Source: Gulrajani et al. 2017 (WGAN-GP), eq. 3
    """
    assert real.shape == fake.shape and u.shape == real.shape[:1], (real.shape, fake.shape, u.shape)
    share = u.view(-1, *[1] * (real.ndim - 1))
    _, slope = scores_and_slope(discriminator, share * real + (1 - share) * fake)
    return (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()


def half_square(slope: Tensor) -> Tensor:
    """What `r1` and `r2` make of slopes (B, D) that `scores_and_slope` gave: a scalar."""
    return 0.5 * slope.square().sum(1).mean()


def scores_and_slope(discriminator: Discriminator, image: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B,) of images (B, ...) and each one's gradient by its own image (B, D), differentiable by the weights.

    float32 with autocast off (float64 for float64 images). A loss of these scores and a penalty on their slope cost
    one forward pass together.
    """
    image = image.detach()
    image = (image if image.dtype == torch.float64 else image.float()).requires_grad_()
    with torch.autocast(image.device.type, enabled=False):
        scores = discriminator(image)
        assert scores.shape == image.shape[:1], f"scores {tuple(scores.shape)} of {len(image)} images"
        (gradient,) = torch.autograd.grad(scores.sum(), image, create_graph=True)
    return scores, gradient.flatten(1)


def lazy(step: int, every: int) -> tuple[bool, float]:
    """Whether a penalty is due at this step (from 0), and the factor that keeps its mean over a period: `every`, or 0.

    Add the penalty times the factor to the loss of that step. The changed rates and betas of StyleGAN2's appendix are
    for penalties that take optimiser steps of their own, and have no place here.

    Raises: ValueError for a period below 1.
    Source: Karras et al. 2020 (StyleGAN2), section 3.1
    """
    if every < 1:
        raise ValueError(f"a penalty every {every} steps: give a whole number of at least 1")
    due = step % every == 0
    return due, float(every) if due else 0.0
