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


# ---- autoguidance ----


def weaker(x_t, t, log_weights=None):
    """The optimal denoiser of blurrier data: every component half as wide again."""
    blurred = mixture(SCHEDULE)
    blurred.std = 1.5 * blurred.std
    return blurred.denoise(x_t, t, log_weights)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_autoguidance_leads_away_from_the_weaker_model_under_the_same_condition(scale):
    out = guided(ORACLE.denoise, COND, None, scale, weaker=weaker)(X_T, T)
    strong, weak = ORACLE.denoise(X_T, T, **COND), weaker(X_T, T, **COND)
    torch.testing.assert_close(out, weak + scale * (strong - weak), rtol=1e-12, atol=1e-12)
    if scale == 1:
        assert torch.equal(out, strong)


def test_autoguidance_is_the_score_of_the_ratio_of_densities():
    """w log p_strong + (1 - w) log p_weak of one Gaussian component: its score is known from both variances."""
    w, scales = 2.0, (SCHEDULE.alpha(T)[:, None, None], SCHEDULE.sigma(T)[:, None, None])
    alpha, sigma = scales
    x_0_hat = guided(ORACLE.denoise, COND, None, w, weaker=weaker)(X_T, T)
    score = (alpha * x_0_hat - X_T) / sigma**2
    expected = 0
    for weight, std in ((w, 0.25), (1 - w, 0.375)):
        expected = expected - weight * (X_T + 0.5 * alpha) / (alpha**2 * std**2 + sigma**2)
    torch.testing.assert_close(score, expected, rtol=1e-8, atol=1e-8)


def test_a_pass_that_is_not_needed_is_not_made():
    strong, weak = Counted(), Counted()
    guided(strong, COND, None, 1.0, weaker=weak)(X_T, T)
    assert (strong.batches, weak.batches) == ([3], [])
    guided(strong, COND, None, 3.0, weaker=weak)(X_T, T)
    assert (strong.batches, weak.batches) == ([3, 3], [3])


def test_both_guidances_together():
    strong, weak = guided(ORACLE.denoise, COND, UNCOND, 3.0), guided(weaker, COND, UNCOND, 3.0)
    out = guided(strong, {}, None, 1.5, weaker=weak)(X_T, T)
    torch.testing.assert_close(out, weak(X_T, T) + 1.5 * (strong(X_T, T) - weak(X_T, T)), rtol=1e-12, atol=1e-12)


# ---- an interval of noise levels ----


def test_guidance_within_an_interval_only():
    """T has log_snr of about 4.5, 0 and -4.5."""
    plain, always = ORACLE.denoise(X_T, T, **COND), guided(ORACLE.denoise, COND, UNCOND, 3.0)(X_T, T)
    log_snr = SCHEDULE.log_snr(T).tolist()
    for interval in ((-1.0, 1.0), (-1.0, 9.0), (-9.0, 9.0), (6.0, 9.0), (log_snr[1], log_snr[0]), (log_snr[2], log_snr[2])):
        out = guided(ORACLE.denoise, COND, UNCOND, 3.0, interval=interval, schedule=SCHEDULE)(X_T, T)
        for i, level in enumerate(log_snr):
            assert torch.equal(out[i], always[i] if interval[0] <= level <= interval[1] else plain[i]), (interval, i)


def test_outside_the_interval_one_pass_is_enough():
    denoise = Counted()
    run = guided(denoise, COND, UNCOND, 3.0, interval=(-1.0, 1.0), schedule=SCHEDULE)
    for t, batches in ((0.2, [3]), (0.5, [6]), (0.8, [3])):
        denoise.batches.clear()
        run(X_T, torch.full((3,), t, dtype=torch.float64))
        assert denoise.batches == batches


def test_interval_holds_for_autoguidance_and_for_scale_zero():
    t = torch.tensor([0.5, 0.5, 0.9], dtype=torch.float64)
    plain = ORACLE.denoise(X_T, t, **COND)
    for options in ({"weaker": weaker, "uncond": None}, {"uncond": UNCOND}):
        for scale in (0.0, 2.0):
            out = guided(ORACLE.denoise, COND, scale=scale, interval=(-1.0, 1.0), schedule=SCHEDULE, **options)(X_T, t)
            always = guided(ORACLE.denoise, COND, scale=scale, **options)(X_T, t)
            assert torch.equal(out[2], plain[2]) and torch.equal(out[:2], always[:2])
            assert (always[2] - plain[2]).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"interval": (0.0, 1.0)}, {"interval": (1.0, 0.0), "schedule": SCHEDULE}])
def test_bad_intervals(options):
    with pytest.raises(ValueError, match="interval="):
        guided(ORACLE.denoise, COND, UNCOND, 2.0, **options)
