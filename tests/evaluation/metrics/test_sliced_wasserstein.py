"""Sliced Wasserstein distance: closed forms and fixed directions."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.sliced_wasserstein import SlicedWasserstein, sliced_wasserstein2
from tests.evaluation.pixel_features import Pixels, fed, images, normal


def test_a_shift_is_its_squared_length_over_the_dimension() -> None:
    a = normal(300, 16, 0)
    shift = torch.full((16,), 0.5).double()
    found = sliced_wasserstein2(a, a[torch.randperm(300)] + shift)
    assert found.shape == (512,) and float(found.mean()) == pytest.approx(float(shift.square().sum()) / 16, rel=0.15)
    assert float(sliced_wasserstein2(a, 3 * a).mean()) == pytest.approx(4 * float(a.square().mean()), rel=0.1)
    assert sliced_wasserstein2(a, a.flip(0)).max() == 0


def test_one_dimension_is_sorting() -> None:
    a, b = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[2.0], [5.0], [1.0]])
    assert sliced_wasserstein2(a, b).tolist() == pytest.approx([(0 + 0 + 4) / 3] * 512)


def test_directions_do_not_touch_or_follow_the_global_generator() -> None:
    sets = {"real": images(150, 0), "fake": images(150, 1, high=200), "reference": images(150, 2)}
    torch.manual_seed(5)
    first = fed(SlicedWasserstein(Pixels()), **sets).compute()
    expected = torch.Generator().manual_seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    assert fed(SlicedWasserstein(Pixels()), **sets).compute() == first
    assert first["sw2_pixels_raw"] > 5 * first["sw2_pixels_raw_real"] > 0
