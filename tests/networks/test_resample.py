"""The ways of growing and shrinking feature maps, each against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from networks.resample import UPSAMPLE_KINDS, Upsample, downsample, equal_sub_pixels, mean_of_4


@pytest.mark.parametrize("kind", UPSAMPLE_KINDS)
def test_upsample_doubles(kind: str) -> None:
    assert Upsample(6, 4, kind)(torch.randn(2, 6, 5, 7)).shape == (2, 4, 10, 14)


@pytest.mark.parametrize(("kind", "grown"), [("repetition", [0, 0, 4, 4]), ("bilinear", [0, 1, 3, 4])])
def test_enlarging_comes_before_the_convolution(kind: str, grown: list[float]) -> None:
    layer = Upsample(1, 1, kind)
    layer.conv = torch.nn.Identity()
    assert layer(torch.tensor([[0.0, 4.0], [0.0, 4.0]])[None, None])[0, 0, 1].tolist() == grown


def test_a_transposed_convolution_covers_every_pixel_equally_often() -> None:
    layer = Upsample(1, 1, "transposed")
    torch.nn.init.ones_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    inner = layer(torch.ones(1, 1, 6, 6))[0, 0, 2:-2, 2:-2]
    assert (inner == 4).all(), "a kernel of 4 and a stride of 2: 2 x 2 places reach each pixel"


def test_pixel_shuffle_starts_without_checkerboard_and_channels_differ() -> None:
    out = Upsample(6, 4, "pixel_shuffle")(torch.randn(2, 6, 5, 5))
    blocks = F.pixel_unshuffle(out, 2).unflatten(1, (4, 4))
    torch.testing.assert_close(blocks, blocks[:, :, :1].expand_as(blocks))
    assert (blocks[:, 0, 0] - blocks[:, 1, 0]).abs().max() > 0.01


def test_equal_sub_pixels_is_repetition_of_every_fourth_filter() -> None:
    conv = torch.nn.Conv2d(1, 8, 1)
    first = conv.weight[[0, 4]].clone()
    equal_sub_pixels(conv)
    assert torch.equal(conv.weight, first.repeat_interleave(4, 0)) and conv.bias.unique().numel() == 2


def test_downsample_halves() -> None:
    assert downsample(3, 5)(torch.zeros(1, 3, 8, 6)).shape == (1, 5, 4, 3)


def test_mean_of_4_rounds_up() -> None:
    x = torch.tensor([[1.0, 3.0, 5.0], [1.0, 3.0, 7.0], [2.0, 4.0, 9.0]])[None, None]
    assert mean_of_4(x)[0, 0].tolist() == [[2, 6], [3, 9]]


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="upsample='magic'"):
        Upsample(4, 4, "magic")


def test_a_strided_convolution_is_centred_on_the_pixels_it_keeps() -> None:
    down = downsample(1, 1)
    with torch.no_grad():
        down.weight.zero_()[0, 0, 1, 1] = 1
        down.bias.zero_()
    x = torch.randn(1, 1, 6, 6)
    assert torch.equal(down(x), x[..., ::2, ::2]) and downsample(1, 1)(x[..., :5, :5]).shape[-2:] == (3, 3)
