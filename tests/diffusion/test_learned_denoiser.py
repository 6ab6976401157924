"""A denoiser with learned variances: its two outputs, its hybrid loss, and that the variances are learned."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from diffusion.denoiser import Denoiser
from diffusion.learned_denoiser import LearnedVarianceDenoiser
from diffusion.learned_variance import vlb_term
from diffusion.process import add_noise
from diffusion.samplers import ddpm
from diffusion.schedules import CosineSchedule, LinearSchedule

STEPS = 20


def both(first: Tensor, second: Tensor):
    """A net that answers with two fixed outputs."""
    return lambda x, log_snr: torch.cat([first.expand_as(x), second.expand_as(x)], dim=1)


def samples(n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x_0 = (torch.randint(0, 256, (n, 2, 4, 4), generator=g).double() / 127.5 - 1).float()
    return x_0, torch.randn(x_0.shape, generator=g)


def test_the_first_half_is_the_prediction_and_the_second_the_variance() -> None:
    schedule, (x_t, _) = CosineSchedule(), samples()
    t = torch.full((6,), 0.4)
    denoiser = LearnedVarianceDenoiser(both(torch.tensor(0.3), torch.tensor(-0.5)), schedule, "v", STEPS)
    x_0_hat, v = denoiser.with_variance(x_t, t)
    plain = Denoiser(lambda x, log_snr: torch.full_like(x, 0.3), schedule, "v")(x_t, t)
    torch.testing.assert_close(x_0_hat, plain)
    torch.testing.assert_close(denoiser(x_t, t), plain)
    torch.testing.assert_close(v, torch.full_like(x_t, 0.25))  # (-0.5 + 1) / 2


def test_the_loss_is_the_simple_one_and_a_thousandth_of_the_bound_in_bits() -> None:
    schedule, (x_0, eps) = CosineSchedule(-9, 9), samples()
    t, first, second = torch.tensor([2, 3, 5, 10, 19, 20]) / STEPS, torch.tensor(0.1), torch.tensor(0.4)
    denoiser = LearnedVarianceDenoiser(both(first, second), schedule, "eps", STEPS)
    simple = Denoiser(lambda x, _: first.expand_as(x), schedule, "eps").loss(x_0, t, eps)
    x_t = add_noise(x_0, eps, t, schedule)
    u = t - 1 / STEPS
    scales = schedule.alpha(t), schedule.sigma(t), schedule.alpha(u), schedule.sigma(u)
    term = vlb_term(x_0, x_t, denoiser(x_t, t), torch.full_like(x_t, 0.7), *scales)
    expected = simple + 1e-3 * STEPS * term / (32 * math.log(2))
    torch.testing.assert_close(denoiser.loss(x_0, t, eps), expected, rtol=1e-4, atol=1e-6)


def test_the_last_step_is_the_decoder_of_bytes() -> None:
    schedule, (x_0, eps) = LinearSchedule(1000), samples()
    t = torch.full((6,), 1e-3)
    denoiser = LearnedVarianceDenoiser(both(torch.tensor(0.0), torch.tensor(1.0)), schedule, "eps", 1000)
    x_t = add_noise(x_0, eps, t, schedule)
    term = denoiser.term(x_0, x_t, x_0, torch.ones_like(x_0), t)  # a perfect mean, and the variance sigma(1/T)²
    std = schedule.sigma(t)[0].double()
    inside = torch.special.ndtr((1 / 255) / std) - torch.special.ndtr((-1 / 255) / std)
    at_end = torch.special.ndtr((1 / 255) / std)
    ends = (x_0.abs() > 1 - 1 / 255).flatten(1).sum(1)
    expected = -((32 - ends) * inside.log() + ends * at_end.log())
    torch.testing.assert_close(term.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_bound_teaches_the_variance_and_not_the_mean() -> None:
    schedule, (x_0, eps) = CosineSchedule(), samples()
    first, second = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    denoiser = LearnedVarianceDenoiser(both(first, second), schedule, "v", STEPS)
    t = torch.arange(1, 7) / STEPS
    x_t = add_noise(x_0, eps, t, schedule)
    term = denoiser.term(x_0, x_t, first * x_t, (second + 1).expand_as(x_t) / 2, t).sum()
    gradients = torch.autograd.grad(term, (first, second), allow_unused=True)
    assert gradients[0] is None or not gradients[0].any()
    assert gradients[1].abs() > 0


def test_the_sampler_takes_the_learned_variance() -> None:
    schedule = CosineSchedule(-9, 9)
    noise, drawn = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(1)), {}
    for name, second in (("small", -1.0), ("large", 1.0)):
        denoiser = LearnedVarianceDenoiser(both(torch.tensor(0.0), torch.tensor(second)), schedule, "x_0", STEPS)
        options = dict(num_steps=STEPS, generator=torch.Generator().manual_seed(2))
        x = []
        ddpm(denoiser, schedule, noise, variance="learned", on_step=lambda i, x_u, _: x.append(x_u), **options)
        fixed = []
        options["generator"] = torch.Generator().manual_seed(2)
        ddpm(denoiser, schedule, noise, variance=name, on_step=lambda i, x_u, _: fixed.append(x_u), **options)
        torch.testing.assert_close(x[STEPS // 2], fixed[STEPS // 2], rtol=1e-4, atol=1e-4)
        drawn[name] = x[STEPS // 2].var()
    assert drawn["large"] > drawn["small"]


@pytest.mark.parametrize("wrong", [functools.partial(LearnedVarianceDenoiser, num_steps=1)])
def test_what_cannot_be_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="learned_variance_steps=1"):
        wrong(lambda x, _: x, CosineSchedule(), "v")
    narrow = LearnedVarianceDenoiser(lambda x, _: x, CosineSchedule(), "v", STEPS)
    with pytest.raises(ValueError, match="needs a net with 4 output channels, this one has 2"):
        narrow(samples()[0], torch.full((6,), 0.5))
