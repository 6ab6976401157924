"""Light damage of a judge's training images: its strength, whom it hits, and that it is blur, stains and noise."""

from __future__ import annotations

import pytest
import torch

from objectives.damage import BLUR, NOISE, NUM_UNIFORM, STAIN, STAINS, blurred, damaged

ZERO = torch.zeros(2, 3, STAINS, STAINS), torch.zeros(2, 3, 16, 16)


def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5


def test_a_share_of_the_images_is_hit_and_the_others_are_as_they_were() -> None:
    given = image()
    u = torch.full((2, NUM_UNIFORM), 0.9)
    u[:, 0] = torch.tensor([0.29, 0.31])
    coarse, fine = torch.randn(2, 3, STAINS, STAINS), torch.randn(2, 3, 16, 16)
    found = damaged(given, 0.3, u, coarse, fine)
    assert not torch.allclose(found[0], given[0], atol=1e-3)
    assert torch.equal(found[1], given[1])
    assert torch.equal(damaged(given, 0.0, u, coarse, fine), given)


@pytest.mark.parametrize("column, most", [(1, STAIN), (2, NOISE)])
def test_stains_and_noise_have_the_strength_that_they_are_given(column: int, most: float) -> None:
    u = torch.zeros(2, NUM_UNIFORM)
    u[:, column] = torch.tensor([1.0, 0.5])
    ones = torch.ones_like(ZERO[0]), torch.ones_like(ZERO[1])
    coarse, fine = (ones[0], ZERO[1]) if column == 1 else (ZERO[0], ones[1])
    change = damaged(image(), 1.0, u, coarse, fine) - image()
    torch.testing.assert_close(change, torch.tensor([most, most / 4])[:, None, None, None].expand_as(change), atol=1e-6, rtol=0)
    other = damaged(image(), 1.0, u, ones[0] - coarse, ones[1] - fine)  # the other kind has no strength
    torch.testing.assert_close(other, image(), atol=1e-6, rtol=0)


def test_stains_are_wider_than_pixels() -> None:
    u = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    stains = damaged(torch.zeros(1, 1, 64, 64), 1.0, u, torch.randn(1, 1, STAINS, STAINS), torch.zeros(1, 1, 64, 64))
    steps = (stains[..., 1:] - stains[..., :-1]).std()
    assert 0 < steps < stains.std() / 3


def test_what_leaves_the_range_is_clamped() -> None:
    u = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).expand(2, -1)
    assert damaged(torch.ones(2, 3, 16, 16), 1.0, u, ZERO[0], torch.ones_like(ZERO[1])).max() == 1


def test_a_blur_widens_an_impulse_by_its_variance_and_keeps_the_mean() -> None:
    point = torch.zeros(3, 1, 33, 33)
    point[:, :, 16, 16] = 1
    std = torch.tensor([0.0, 0.6, BLUR])
    found = blurred(point, std)
    assert torch.equal(found[0], point[0])
    place = torch.arange(33.0) - 16
    for axis in (2, 3):
        profile = found.sum(5 - axis)[:, 0]  # along the axis
        variance = (profile * place**2).sum(1)
        torch.testing.assert_close(variance[1:], std[1:] ** 2, rtol=0.05, atol=0)
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3))


def test_a_blur_of_one_image_does_not_touch_another() -> None:
    two = blurred(image(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(two[0], image()[0])
    torch.testing.assert_close(two[1:], blurred(image()[1:], torch.tensor([1.0])))
