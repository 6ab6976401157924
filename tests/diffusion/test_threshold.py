from __future__ import annotations

import pytest
import torch

from diffusion.threshold import dynamic_threshold, static_threshold, thresholded


def test_dynamic_leaves_small_samples_and_scales_large_ones():
    small = torch.linspace(-0.9, 0.9, 101)
    large = torch.linspace(-3, 3, 1001)
    assert torch.equal(dynamic_threshold(small[None]), small[None])
    out = dynamic_threshold(large[None], 0.9)[0]
    s = torch.quantile(large.abs(), 0.9)
    torch.testing.assert_close(out, large.clamp(-s, s) / s)
    assert s > 2.6 and out.max() == 1 and out.min() == -1


def test_dynamic_is_per_sample():
    x = torch.randn(4, 3, 8, 8) * torch.tensor([0.1, 1.0, 5.0, 50.0])[:, None, None, None]
    together = dynamic_threshold(x)
    assert torch.equal(together, torch.cat([dynamic_threshold(x[i : i + 1]) for i in range(4)]))
    assert torch.equal(together[0], x[0]) and together.abs().max() <= 1


def test_dynamic_clips_no_outlier_below_one():
    """s is never below 1: a sample whose percentile is 0.2 is clipped at 1, not at 0.2."""
    x = torch.full((1, 1000), 0.2)
    x[0, 0] = 4.0
    out = dynamic_threshold(x)
    assert out[0, 0] == 1 and (out[0, 1:] == 0.2).all()


def test_static():
    assert torch.equal(static_threshold(torch.tensor([-2.0, 0.3, 1.5])), torch.tensor([-1.0, 0.3, 1.0]))


def test_wrapper_keeps_conditions_and_dtype():
    denoise = lambda x_t, t, gain: gain * x_t  # noqa: E731
    x = torch.randn(2, 50, dtype=torch.float64)
    for kind, wanted in {"none": 3 * x, "static": (3 * x).clamp(-1, 1), "dynamic": dynamic_threshold(3 * x)}.items():
        torch.testing.assert_close(thresholded(denoise, kind)(x, torch.zeros(2), gain=3.0), wanted)
    assert torch.equal(
        thresholded(denoise, "dynamic", 0.5)(x, torch.zeros(2), gain=3.0), dynamic_threshold(3 * x, 0.5)
    )


@pytest.mark.slow
def test_more_numbers_than_torch_quantile_takes_at_once():
    x = torch.randn(2, 2**23 + 1)
    assert dynamic_threshold(x).abs().max() <= 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown threshold 'clip'"):
        thresholded(lambda x, t: x, "clip")
    with pytest.raises(ValueError, match="percentile=99.5"):
        thresholded(lambda x, t: x, "dynamic", 99.5)
