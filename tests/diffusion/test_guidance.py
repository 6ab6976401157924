from __future__ import annotations

import math

import pytest
import torch

from diffusion.guidance import guided
from tests.diffusion.oracles import SCHEDULES, mixture

SCHEDULE = SCHEDULES["cosine"]
T = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
X_T = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
ORACLE = mixture(SCHEDULE)
COND = {"log_weights": torch.tensor([[0.0, -math.inf]] * 3, dtype=torch.float64)}  # the first component only
UNCOND = {"log_weights": ORACLE.log_weights.expand(3, 2)}


class Counted:
    """The mixture's optimal denoiser, remembering the batch size of every call."""

    def __init__(self):
        self.batches = []

    def __call__(self, x_t, t, log_weights=None):
        self.batches.append(len(x_t))
        return ORACLE.denoise(x_t, t, log_weights)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_mixes_the_two_estimates(scale):
    denoise = Counted()
    out = guided(denoise, COND, UNCOND, scale)(X_T, T)
    cond, uncond = ORACLE.denoise(X_T, T, **COND), ORACLE.denoise(X_T, T)
    torch.testing.assert_close(out, scale * cond + (1 - scale) * uncond, rtol=1e-12, atol=1e-12)
    assert denoise.batches == ([3] if scale in (0, 1) else [6])


def test_guided_eps_is_the_score_of_the_sharpened_density():
    """-eps / sigma is the gradient of w log p(x_t | c) + (1 - w) log p(x_t)."""
    x = X_T.clone().requires_grad_()
    w = 2.5
    (w * ORACLE.log_prob(x, T, **COND) + (1 - w) * ORACLE.log_prob(x, T)).sum().backward()
    x_0_hat = guided(ORACLE.denoise, COND, UNCOND, w)(X_T, T)
    alpha, sigma = SCHEDULE.alpha(T)[:, None, None], SCHEDULE.sigma(T)[:, None, None]
    eps_hat = (X_T - alpha * x_0_hat) / sigma
    torch.testing.assert_close(-eps_hat / sigma, x.grad, rtol=1e-8, atol=1e-8)


def test_scale_one_is_exactly_the_conditional_and_zero_the_unconditional():
    assert torch.equal(guided(ORACLE.denoise, COND, UNCOND, 1.0)(X_T, T), ORACLE.denoise(X_T, T, **COND))
    assert torch.equal(guided(ORACLE.denoise, COND, UNCOND, 0)(X_T, T), ORACLE.denoise(X_T, T, **UNCOND))


def test_scale_per_sample():
    each = guided(ORACLE.denoise, COND, UNCOND, torch.tensor([0.0, 1.0, 4.0]))(X_T, T)
    for i, scale in enumerate((0.0, 1.0, 4.0)):
        torch.testing.assert_close(each[i], guided(ORACLE.denoise, COND, UNCOND, scale)(X_T, T)[i])


def test_rescale_restores_the_conditional_standard_deviation():
    cond = ORACLE.denoise(X_T, T, **COND)
    plain = guided(ORACLE.denoise, COND, UNCOND, 6.0)(X_T, T)
    full = guided(ORACLE.denoise, COND, UNCOND, 6.0, rescale=1.0)(X_T, T)
    std = lambda x: x.flatten(1).std(1)  # noqa: E731
    assert ((std(plain) / std(cond) - 1).abs() > 0.01).all()
    torch.testing.assert_close(std(full), std(cond))
    part = guided(ORACLE.denoise, COND, UNCOND, 6.0, rescale=0.7)(X_T, T)
    torch.testing.assert_close(part, 0.7 * full + 0.3 * plain)


def test_none_conditions_pass_through():
    def denoise(x_t, t, *, text, lowres):
        assert lowres is None
        return x_t * text

    cond, uncond = {"text": torch.ones(3, 1, 1), "lowres": None}, {"text": torch.zeros(3, 1, 1), "lowres": None}
    torch.testing.assert_close(guided(denoise, cond, uncond, 2.0)(X_T, T), 2 * X_T)


def test_mismatched_conditions():
    text = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="same keys"):
        guided(ORACLE.denoise, {"text": text}, {}, 2.0)
    with pytest.raises(ValueError, match="'text' differs in shape"):
        guided(ORACLE.denoise, {"text": text}, {"text": text[:, :2]}, 2.0)
    with pytest.raises(ValueError, match="'text' differs in shape"):
        guided(ORACLE.denoise, {"text": text}, {"text": None}, 2.0)
