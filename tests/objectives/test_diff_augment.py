"""Augmentation against plain loops over pixels, with gradients, ranges and an identity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from objectives.diff_augment import NUM_UNIFORM, POLICIES, augment
from objectives.penalties import r1

ALL = tuple(POLICIES)


def images(n: int = 6, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(n, channels, height, width, dtype=torch.float64) * 2 - 1


def noise(n: int = 6, **columns: float) -> Tensor:
    u = torch.rand(n, NUM_UNIFORM, dtype=torch.float64)
    names = ("brightness", "saturation", "contrast", "down", "right", "row", "column")
    for name, value in columns.items():
        u[:, names.index(name)] = value
    return u


def test_an_empty_policy_changes_nothing() -> None:
    image = images()
    assert augment(image, [], noise()) is image


def test_the_middle_of_every_range_changes_nothing() -> None:
    image = images()
    still = noise(brightness=0.5, saturation=0.5, contrast=0.5, down=0.5, right=0.5)
    torch.testing.assert_close(augment(image, ["color", "translation"], still), image)


# ---- colours ----


@pytest.mark.parametrize("u", [0.0, 0.3, 0.999])
def test_brightness_is_added_between_minus_and_plus_one_half(u: float) -> None:
    image = images()
    found = augment(image, ["color"], noise(brightness=u, saturation=0.5, contrast=0.5))
    torch.testing.assert_close(found, image + (u - 0.5))


@pytest.mark.parametrize(("u", "factor"), [(0.0, 0), (0.25, 0.5), (1 - 2**-24, 2)])
def test_saturation_scales_the_distance_from_grey(u: float, factor: float) -> None:
    image = images()
    found = augment(image, ["color"], noise(brightness=0.5, saturation=u, contrast=0.5))
    grey = image.mean(1, keepdim=True)
    torch.testing.assert_close(found - found.mean(1, keepdim=True), factor * (image - grey), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.mean(1, keepdim=True), grey)


@pytest.mark.parametrize(("u", "factor"), [(0.0, 0.5), (0.75, 1.25), (1 - 2**-24, 1.5)])
def test_contrast_scales_the_distance_from_the_mean(u: float, factor: float) -> None:
    image = images()
    found = augment(image, ["color"], noise(brightness=0.5, saturation=0.5, contrast=u))
    for one, other in zip(image, found):
        torch.testing.assert_close(other - other.mean(), factor * (one - one.mean()), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other.mean(), one.mean())


def test_contrast_comes_after_brightness_as_in_the_papers_code() -> None:
    image = torch.full((1, 1, 4, 4), 0.2, dtype=torch.float64)
    found = augment(image, ["color"], noise(1, brightness=0.9, contrast=0.0))
    torch.testing.assert_close(found, image + 0.4)  # a flat image has no contrast, whatever its brightness became


def test_saturation_leaves_grey_images_alone() -> None:
    image, u = images(channels=1), noise()
    v = u.clone()
    v[:, 1] = torch.rand(6, dtype=torch.float64)
    torch.testing.assert_close(augment(image, ["color"], u), augment(image, ["color"], v))


# ---- places ----


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """Cut a window out of the image with a wide margin of zeros."""
    height, width = image.shape[-2:]
    return F.pad(image, (9, 9, 9, 9))[:, 9 - down : 9 - down + height, 9 - right : 9 - right + width]


@pytest.mark.parametrize(("height", "width", "most"), [(16, 16, (2, 2)), (28, 28, (4, 4)), (16, 8, (2, 1))])
def test_translation_moves_by_whole_pixels_and_fills_with_zeros(
    height: int, width: int, most: tuple[int, int]
) -> None:
    image, u = images(40, height=height, width=width), noise(40)
    u[:2, 3:5] = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    found, shifts = augment(image, ["translation"], u), []
    for one, out in zip(image, found):
        fits = [
            (dy, dx)
            for dy in range(-most[0], most[0] + 1)
            for dx in range(-most[1], most[1] + 1)
            if torch.equal(moved(one, dy, dx), out)
        ]
        shifts += fits
    assert len(shifts) == 40 and shifts[0] == (-most[0], -most[1]) and shifts[1] == most
    assert {dy for dy, _ in shifts} == set(range(-most[0], most[0] + 1))


@pytest.mark.parametrize("side", [16, 28, 7])
def test_cutout_hides_a_square_of_half_the_side_that_the_border_may_cut(side: int) -> None:
    """As the paper's code: first row = randint(side + 1 - size % 2) - size // 2, clamped to the image."""
    size = int(side * 0.5 + 0.5)
    u = noise(60)
    u[:2, 5:7] = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    found = augment(torch.ones(60, 1, side, side, dtype=torch.float64), ["cutout"], u)[:, 0]
    begins = set()
    for out, row, column in zip(found, u[:, 5].tolist(), u[:, 6].tolist()):
        centre = [int(v * (side + 1 - size % 2)) for v in (row, column)]
        kept = torch.ones(side, side, dtype=torch.float64)
        for y in range(size):
            for x in range(size):
                at = [min(max(c - size // 2 + i, 0), side - 1) for c, i in zip(centre, (y, x))]
                kept[at[0], at[1]] = 0
        assert torch.equal(out, kept)
        begins.add(centre[0])
    assert found[0, 0, 0] == 0 and found[1, -1, -1] == 0 and len(begins) > side / 2
    assert (found == 0).sum((1, 2)).max() == size**2


# ---- together ----


def test_each_change_has_numbers_of_its_own() -> None:
    image, u = images(), noise()
    step_by_step = image
    for name in ALL:
        step_by_step = augment(step_by_step, [name], u)
    assert torch.equal(augment(image, ALL, u), step_by_step)
    assert torch.equal(augment(image, ["cutout", "color", "translation"], u), step_by_step), "one order for all"


def test_an_image_depends_on_its_own_numbers_alone() -> None:
    image, u = images(), noise()
    whole = augment(image, ALL, u)
    torch.testing.assert_close(whole[2:3], augment(image[2:3], ALL, u[2:3]))
    other = u.clone()
    other[0] = 1 - u[0]
    again = augment(image, ALL, other)
    assert torch.equal(again[1:], whole[1:]) and not torch.equal(again[0], whole[0])


def test_gradients_are_those_of_finite_differences_once_and_twice() -> None:
    image, u = images(2, 2, 5, 4).requires_grad_(), noise(2)
    assert torch.autograd.gradcheck(lambda x: augment(x, ALL, u), image)
    assert torch.autograd.gradgradcheck(lambda x: augment(x, ALL, u).sin(), image)


def test_r1_goes_through_it() -> None:
    w = torch.randn(48, requires_grad=True)
    u = noise(4).float()
    r1(lambda x: augment(x, ALL, u).flatten(1) @ w, torch.randn(4, 3, 4, 4)).backward()
    assert w.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type_and_shape_stay(dtype: torch.dtype) -> None:
    image = images(4, 1, 28, 28).to(dtype)
    found = augment(image, ALL, torch.rand(4, NUM_UNIFORM))
    assert found.dtype == dtype and found.shape == image.shape and found.abs().max() <= 3


@pytest.mark.parametrize(("policy", "named"), [(["colour"], r"\['colour'\]"), ("color", r"\['color'\]")])
def test_an_unknown_word_is_named(policy: object, named: str) -> None:
    with pytest.raises(ValueError, match=f"model.augment={named}: give a list of color, translation, cutout"):
        augment(images(), policy, noise())


def test_down_and_right_have_a_number_each() -> None:
    image = images(1)
    for down, right, shift in ((0.0, 0.5, (-2, 0)), (0.5, 0.0, (0, -2)), (0.0, 1 - 2**-24, (-2, 2))):
        found = augment(image, ["translation"], noise(1, down=down, right=right))
        assert torch.equal(found[0], moved(image[0], *shift))


def test_the_cut_has_a_row_and_a_column() -> None:
    image = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    found = augment(image, ["cutout"], noise(1, row=0.0, column=0.5))[0, 0]
    assert (found[:4, 4:12] == 0).all() and found.sum() == 256 - 32
