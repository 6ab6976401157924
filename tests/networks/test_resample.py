"""Halving and doubling feature maps: sizes, interpolation at the corners, and starts without a checkerboard."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from networks.resample import UPSAMPLE_KINDS, Upsample, downsample, equal_sub_pixels, mean_of_4


@pytest.mark.parametrize("kind", UPSAMPLE_KINDS)
def test_both_sides_are_doubled(kind: str) -> None:
    assert Upsample(3, 5, kind)(torch.randn(2, 3, 4, 6)).shape == (2, 5, 8, 12)
    with pytest.raises(ValueError, match="^upsample='nearest' is not known: choose one of repetition"):
        Upsample(3, 5, "nearest")


def test_enlarging_comes_before_the_convolution_and_keeps_no_corner_in_place() -> None:
    x = torch.arange(3.0).expand(1, 1, 3, 3)
    for kind, expected in (("repetition", [0, 0, 1, 1, 2, 2]), ("bilinear", [0, 0.25, 0.75, 1.25, 1.75, 2])):
        up = Upsample(1, 1, kind)
        with torch.no_grad():
            up.conv.weight.zero_()[0, 0, 1, 1] = 1  # a convolution that changes nothing
            up.conv.bias.zero_()
        assert up(x)[0, 0].tolist() == [expected] * 6


def test_the_transposed_kernel_is_a_multiple_of_its_stride() -> None:
    """So that every pixel is a sum of as many terms as its neighbour."""
    up = Upsample(1, 1, "transposed")
    with torch.no_grad():
        up.conv.weight.fill_(1.0)
        up.conv.bias.zero_()
    inside = up(torch.ones(1, 1, 6, 6))[..., 2:-2, 2:-2]
    assert torch.equal(inside, torch.full_like(inside, 4.0))


def test_a_pixel_shuffle_starts_as_repetition() -> None:
    up, x = Upsample(3, 5, "pixel_shuffle"), torch.randn(2, 3, 4, 4)
    found = up(x)
    assert torch.equal(found, F.interpolate(found[..., ::2, ::2], scale_factor=2))
    torch.nn.init.normal_(up.conv.weight)
    assert not torch.equal(up(x), F.interpolate(up(x)[..., ::2, ::2], scale_factor=2))
    kept = up.conv.weight[::4].clone()
    equal_sub_pixels(up.conv)
    assert torch.equal(up.conv.weight, kept.repeat_interleave(4, 0))


@pytest.mark.parametrize(("side", "half"), [(8, 4), (7, 4), (1, 1)])
def test_halves_round_up(side: int, half: int) -> None:
    assert downsample(3, 5)(torch.randn(2, 3, side, side)).shape == (2, 5, half, half)
    assert mean_of_4(torch.randn(2, 3, side, side)).shape == (2, 3, half, half)


def test_a_strided_convolution_is_centred_on_the_pixels_it_keeps() -> None:
    down = downsample(1, 1)
    with torch.no_grad():
        down.weight.zero_()[0, 0, 1, 1] = 1
        down.bias.zero_()
    x = torch.randn(1, 1, 6, 6)
    assert torch.equal(down(x), x[..., ::2, ::2])
