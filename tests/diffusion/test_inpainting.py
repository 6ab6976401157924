"""Inpainting on a correlated Gaussian of two dimensions: the distribution of one given the other is known."""

from __future__ import annotations

import pytest
import torch

from diffusion.inpainting import inpainted
from diffusion.samplers import ddim, ddpm, dpmpp_2m, edm, heun, repaint, unipc
from tests.diffusion.oracles import SCHEDULES

STD, RHO, KNOWN = 0.6, 0.8, 0.7
EXACT_MEAN, EXACT_VAR = RHO * KNOWN, STD**2 * (1 - RHO**2)
COVARIANCE = STD**2 * torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
MASK = torch.tensor([True, False])


def oracle(schedule):
    """E[x_0 | x_t] of N(0, COVARIANCE) data: alpha C (alpha² C + sigma² I)^-1 x_t."""

    def denoise(x_t, t):
        assert (t == t[0]).all()
        alpha, sigma = schedule.alpha(t[0]), schedule.sigma(t[0])
        total = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)
        return x_t @ (alpha * torch.linalg.solve(total, COVARIANCE))

    return denoise


def drawn(sampler, name="cosine", n=20_000, num_steps=50, **options):
    schedule, generator = SCHEDULES[name], torch.Generator().manual_seed(4)
    x_T = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    x_T = x_T * schedule.sigma(torch.ones((), dtype=torch.float64))
    known = torch.tensor([KNOWN, 9.9], dtype=torch.float64)
    denoise = inpainted(oracle(schedule), known, MASK)
    return sampler(denoise, schedule, x_T, num_steps=num_steps, generator=generator, **options)


@pytest.mark.parametrize("name", ["cosine", "linear", "karras", "rectified_flow"])
@pytest.mark.parametrize("sampler", [ddim, ddpm, dpmpp_2m, edm, heun, repaint, unipc])
def test_known_pixels_are_exact_and_the_others_free(sampler, name):
    x_0 = drawn(sampler, name, n=50, num_steps=5)
    assert (x_0[:, 0] == KNOWN).all() and x_0[:, 1].std() > 0.05 and (x_0[:, 1] != 9.9).all()


def test_known_pixels_are_at_the_noise_level_of_the_others_on_the_way():
    seen = []
    drawn(ddpm, num_steps=10, on_step=lambda i, x, x_0_hat: seen.append(x))
    t = SCHEDULES["cosine"].grid(10)
    for u, x in zip(t[1:-1], seen):
        alpha, sigma = SCHEDULES["cosine"].alpha(u).item(), SCHEDULES["cosine"].sigma(u).item()
        assert abs(x[:, 0].mean() - alpha * KNOWN) < 5 * sigma / 20_000**0.5
        assert abs(x[:, 0].std() / sigma - 1) < 0.03


def test_replacement_alone_heeds_the_known_pixels_too_little():
    """The mean moves only part of the way, which is why `repaint` exists."""
    for sampler in (ddim, ddpm):
        unknown = drawn(sampler)[:, 1]
        assert 0.3 * EXACT_MEAN < unknown.mean() < 0.97 * EXACT_MEAN
        assert unknown.var() > EXACT_VAR


def test_repaint_comes_to_the_conditional_distribution():
    """Mean within 10 %, variance within 25 %: near, not exact (the small variance is too small at every resampling)."""
    better = drawn(repaint, n=5000, resamplings=10, jump_steps=5)[:, 1]
    assert abs(better.mean() - EXACT_MEAN) < 0.1 * EXACT_MEAN
    assert abs(better.var() - EXACT_VAR) < 0.25 * EXACT_VAR


def test_repaint_with_one_resampling_is_ddpm():
    assert torch.equal(drawn(repaint, n=20, resamplings=1, jump_steps=3), drawn(ddpm, n=20))


def test_masks_broadcast_and_guidance_goes_through():
    denoise = inpainted(lambda x_t, t, *, shift: x_t + shift, torch.zeros(1, 1, 2), torch.tensor([[True, False]]))
    out = denoise(torch.ones(3, 4, 2), torch.zeros(3), shift=2.0)
    assert (out[..., 0] == 0).all() and (out[..., 1] == 3).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="mask is torch.float32"):
        inpainted(lambda x_t, t: x_t, torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="resamplings=0"):
        drawn(repaint, n=2, resamplings=0)
