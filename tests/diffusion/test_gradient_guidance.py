"""Guidance by a likelihood's gradient, against the exact posterior of Gaussian data with a Gaussian likelihood."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion.gradient_guidance import SMALLEST_ALPHA, gradient, gradient_guided
from diffusion.process import expand
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule, LinearSchedule, RectifiedFlowSchedule

MEAN, VAR = 0.4, 0.7  # of the data x_0 ~ N(MEAN, VAR), each number by itself
NOISE = 0.3  # variance of the observation c = x_0 + noise
SCHEDULES = [CosineSchedule(), LinearSchedule(), RectifiedFlowSchedule()]
T = torch.tensor([0.05, 0.3, 0.5, 0.7], dtype=torch.float64)


def denoiser(mean: Tensor | float, var: float, schedule):
    """E[x_0 | x_t] of x_0 ~ N(mean, var)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand(f(t), x_t) for f in (schedule.alpha, schedule.sigma))
        gain = alpha * var / (alpha**2 * var + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


def log_likelihood(c: Tensor, schedule):
    """log p(c | x_t): c given x_t is Gaussian about E[x_0 | x_t], with the variance that is left of x_0 and the noise's."""

    def value(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand(f(t), x_t) for f in (schedule.alpha, schedule.sigma))
        left = VAR * sigma**2 / (alpha**2 * VAR + sigma**2) + NOISE
        return (-((c - denoiser(MEAN, VAR, schedule)(x_t, t)) ** 2) / (2 * left)).flatten(1).sum(1)

    return value


def posterior(c: Tensor) -> tuple[Tensor, float]:
    """Mean and variance of x_0 given c."""
    var = 1 / (1 / VAR + 1 / NOISE)
    return var * (MEAN / VAR + c / NOISE), var


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_at_scale_1_it_is_the_denoiser_of_the_exact_posterior(schedule) -> None:
    generator = torch.Generator().manual_seed(0)
    x_t, c = (torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    mean, var = posterior(c)
    wanted, prior = denoiser(mean, var, schedule)(x_t, T), denoiser(MEAN, VAR, schedule)
    found = gradient_guided(prior, log_likelihood(c, schedule), schedule, 1.0)(x_t, T)
    assert schedule.alpha(T).min() > SMALLEST_ALPHA and (wanted - prior(x_t, T)).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    twice = gradient_guided(prior, log_likelihood(c, schedule), schedule, 2.0)(x_t, T)
    torch.testing.assert_close(twice - prior(x_t, T), 2 * (wanted - prior(x_t, T)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_samplers_draw_from_the_posterior_also_where_gradients_are_switched_off(mode) -> None:
    schedule, c = CosineSchedule(), torch.tensor([1.5, -1.0], dtype=torch.float64)
    x_T = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with mode():
        guided = gradient_guided(denoiser(MEAN, VAR, schedule), log_likelihood(c * 1, schedule), schedule, 1.0)
        drawn = ddim(guided, schedule, x_T.clone(), num_steps=200)
    mean, var = posterior(c)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(0), torch.full((2,), var, dtype=torch.float64), rtol=0.08, atol=0)


def test_each_sample_is_moved_by_its_own_likelihood_and_weights_get_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.tensor(2.0))
    x_t, t = torch.randn(3, 5), torch.rand(3)
    found = gradient(lambda x, t: weight * (x * t[:, None]).square().sum(1), x_t, t)
    torch.testing.assert_close(found, 4 * x_t * t[:, None] ** 2)
    assert weight.grad is None and not found.requires_grad and not x_t.requires_grad


def test_where_hardly_anything_is_left_of_the_picture_the_shift_is_bounded() -> None:
    schedule, x_t = CosineSchedule(), torch.zeros(1, 2)
    found = gradient_guided(lambda x, t: x, lambda x, t: x.sum(1), schedule, 3.0)(x_t, torch.ones(1))
    torch.testing.assert_close(found, torch.full((1, 2), 3 / SMALLEST_ALPHA))


def test_scale_0_is_off_and_conditions_are_handed_on() -> None:
    def denoise(x_t: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        return x_t + shift

    def fails(x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    assert gradient_guided(denoise, fails, CosineSchedule(), 0.0) is denoise
    found = gradient_guided(denoise, lambda x, t: x.sum(1), CosineSchedule(), 1.0)(torch.zeros(1, 1), torch.zeros(1), shift=5.0)
    assert found.item() == pytest.approx(5, abs=1e-3)
    with pytest.raises(ValueError, match="scale=nan: give a number"):
        gradient_guided(denoise, fails, CosineSchedule(), float("nan"))
