"""The one conversion to bytes."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.images import to_uint8


def test_every_byte_survives_the_round_trip() -> None:
    image_u8 = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(image_u8.float() / 127.5 - 1), image_u8)


def test_rounds_to_the_nearest_level_and_clamps() -> None:
    level = torch.tensor([100.4, 100.6, -30.0, 300.0]).view(1, 1, 2, 2)
    assert to_uint8(level / 127.5 - 1).flatten().tolist() == [100, 101, 0, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_image_is_an_error_and_never_a_black_one(bad: float) -> None:
    image = torch.zeros(3, 3, 4, 4)
    image[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"images \[1\]"):
        to_uint8(image)


@pytest.mark.parametrize("image", [torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)])
def test_refuses_what_is_not_a_float_batch(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="float image batch"):
        to_uint8(image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pixels_become_the_nearest_byte(dtype: torch.dtype) -> None:
    image = torch.linspace(-1, 1, 1024).to(dtype).view(1, 1, 32, 32)
    expected = ((image.double() + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(to_uint8(image), expected)
