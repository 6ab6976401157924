"""What a super-resolution stage starts from: sizes, crops, noise and its level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion.schedules import CosineSchedule
from lightning_modules.spaces import enlarge, reduce
from lightning_modules.super_resolution import LowResolution, blur


def noise_in(x_t: Tensor, x_0: Tensor, level: Tensor) -> Tensor:
    """eps of x_t = alpha x_0 + sigma eps on the cosine schedule."""
    alpha, sigma = (f(level).view(-1, 1, 1, 1) for f in (CosineSchedule().alpha, CosineSchedule().sigma))
    return (x_t - alpha * x_0) / sigma


def images(n: int = 200, size: int = 8) -> Tensor:
    return torch.rand(n, 2, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_training_noises_the_datas_own_low_resolution_image_to_a_level_of_its_seed() -> None:
    lowres, image, seeds = LowResolution(4, max_aug_level=0.6), images(size=16), torch.arange(200)
    x_0, fields = lowres.for_training({"image": image}, reduce(image, 8), seeds, "up")
    level = fields["aug_level"]
    assert torch.equal(x_0, reduce(image, 8)) and sorted(fields) == ["aug_level", "lowres"]
    assert 0 <= level.min() < 0.03 and 0.57 < level.max() <= 0.6 and abs(level.mean() - 0.3) < 0.05
    far = level > 0.05
    eps = noise_in(fields["lowres"], enlarge(reduce(image, 4), 8), level)[far]
    assert abs(eps.mean()) < 5 / eps.numel() ** 0.5 and abs(eps.var() - 1) < 0.05
    assert torch.corrcoef(eps.flatten(1)[:20]).triu(1).abs().max() < 0.5, "every sample has noise of its own"
    _, again = lowres.for_training({"image": image[5:7]}, reduce(image[5:7], 8), seeds[5:7], "up")
    assert torch.equal(again["aug_level"], level[5:7]) and torch.equal(again["lowres"], fields["lowres"][5:7])
    _, other = lowres.for_training({"image": image}, reduce(image, 8), seeds, "top")
    assert (other["aug_level"] - level).abs().mean() > 0.1 and not torch.equal(other["lowres"], fields["lowres"])


def test_sampling_noises_the_picture_below_to_the_level_asked_for() -> None:
    lowres, picture = LowResolution(4, aug_level=0.3, max_aug_level=0.8), images(3, 4)
    for asked, wanted in ((None, 0.3), (0.7, 0.7), (0, 0.0)):
        generators = [torch.Generator().manual_seed(s) for s in range(3)]
        fields = lowres.for_sampling(picture, 16, generators, asked)
        torch.testing.assert_close(fields["aug_level"], torch.full((3,), wanted))
        eps = torch.stack([torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(s)) for s in range(3)])
        if wanted:
            found = noise_in(fields["lowres"], enlarge(picture, 16), fields["aug_level"])
            torch.testing.assert_close(found, eps, rtol=1e-3, atol=1e-3)
        else:
            torch.testing.assert_close(fields["lowres"], enlarge(picture, 16), rtol=0, atol=1e-3)


def test_levels_that_are_not_trained_are_refused() -> None:
    assert LowResolution(4).checked_level(None) == 0 and LowResolution(4, aug_level=0.2).checked_level(None) == 0.2
    assert LowResolution(4).checked_level(1) == 1 and LowResolution(4, max_aug_level=0.3).checked_level(0.3) == 0.3
    for level in (1.01, -0.1):
        with pytest.raises(ValueError, match=rf"max_aug_level={level} is outside \[0, 1\]"):
            LowResolution(4, max_aug_level=level)
    with pytest.raises(ValueError, match=r"aug_level=0.5 is outside \[0, 0.3\], the levels that the stage is trained on"):
        LowResolution(4, aug_level=0.5, max_aug_level=0.3)
    trained = LowResolution(4, aug_level=0.1, max_aug_level=0.3)
    for level in (0.31, -0.1):
        with pytest.raises(ValueError, match=rf"aug_level={level} is outside \[0, 0.3\]"):
            trained.checked_level(level)
        with pytest.raises(ValueError, match=rf"aug_level={level} is outside"):
            trained.for_sampling(images(1, 4), 8, [torch.Generator()], level)


def test_sizes_that_do_not_fit_are_refused() -> None:
    LowResolution(4, crop_size=4).check(8)
    LowResolution(4, crop_size=8).check(8)
    with pytest.raises(ValueError, match="image_size=8 is not a multiple of the low resolution, size=3"):
        LowResolution(3).check(8)
    for crop_size in (3, 16):
        with pytest.raises(ValueError, match=f"crop_size={crop_size}: crops have a side that divides the stage's 8 pixels"):
            LowResolution(4, crop_size=crop_size).check(8)


def test_crops_of_image_and_condition_are_one_window_anywhere_on_the_grid() -> None:
    lowres, n = LowResolution(4, crop_size=4), 400
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(n, 2, 8, 8)
    seeds = torch.arange(n)
    x_0, condition = lowres.crop(ramp, ramp + 1000, seeds, "up")
    assert x_0.shape == (n, 2, 4, 4)
    torch.testing.assert_close(condition, x_0 + 1000)
    corners = [divmod(int(c), 8) for c in x_0[:, 0, 0, 0]]
    assert set(corners) == {(y, x) for y in (0, 2, 4) for x in (0, 2, 4)}
    for (y, x), crop in zip(corners, x_0):
        assert torch.equal(crop[0], ramp[0, 0, y : y + 4, x : x + 4])
    other = lowres.crop(ramp, ramp, seeds, "top")[0]
    assert not torch.equal(other, x_0)


def test_rows_of_a_crop_are_drawn_for_rows() -> None:
    """Written down once: a change here changes which windows every run sees."""
    ramp = torch.arange(64.0).view(1, 1, 8, 8).expand(6, 2, 8, 8)
    crop = LowResolution(4, crop_size=4).crop(ramp, ramp, torch.arange(6), "up")[0]
    corners = [divmod(int(c), 8) for c in crop[:, 0, 0, 0]]
    assert corners == [(2, 4), (0, 4), (4, 2), (0, 0), (2, 0), (2, 0)]


def test_crops_cut_the_same_window_from_image_and_condition() -> None:
    image = torch.arange(256.0).view(1, 1, 16, 16).expand(3, 3, 16, 16) / 128 - 1
    x_0, condition = image, enlarge(reduce(image, 8), 16)
    crop, crop_condition = LowResolution(8, crop_size=8).crop(x_0, condition, torch.tensor([1, 2, 3]), "up")
    assert crop.shape == crop_condition.shape == (3, 3, 8, 8)
    assert len({float(c[0, 0, 0]) for c in crop}) > 1  # windows differ by seed
    for one, cond in zip(crop, crop_condition):
        place = int((x_0[0, 0] == one[0, 0, 0]).nonzero()[0] @ torch.tensor([16, 1]))
        y, x = divmod(place, 16)
        assert y % 2 == x % 2 == 0  # on the low-resolution grid
        torch.testing.assert_close(cond, condition[0, :, y : y + 8, x : x + 8])


@pytest.mark.parametrize("crop_size", [None, 8])
def test_whole_images_are_not_cut(crop_size: int | None) -> None:
    image = images(2)
    x_0, condition = LowResolution(4, crop_size=crop_size).crop(image, -image, torch.arange(2), "up")
    assert x_0 is image and torch.equal(condition, -image)


def test_crops_are_noised_after_they_are_cut() -> None:
    """The noise has the crop's size, so a crop's level is the level that the net is told."""
    image, seeds = images(50), torch.arange(50)
    x_0, fields = LowResolution(4, crop_size=4).for_training({"image": image}, image, seeds, "up")
    cut, enlarged = LowResolution(4, crop_size=4).crop(image, enlarge(reduce(image, 4), 8), seeds, "up")
    assert torch.equal(x_0, cut) and fields["lowres"].shape == (50, 2, 4, 4)
    far = fields["aug_level"] > 0.1
    eps = noise_in(fields["lowres"], enlarged, fields["aug_level"])[far]
    assert abs(eps.var() - 1) < 0.2 and abs(eps.mean()) < 0.15


def test_a_blur_is_a_gaussian_of_nine_pixels_that_keeps_a_flat_picture() -> None:
    spot = torch.zeros(1, 2, 7, 7, dtype=torch.float64)
    spot[0, 1, 3, 3] = 1
    found = blur(spot, 0.6)
    offsets = torch.arange(-1, 2, dtype=torch.float64)
    gaussian = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 0.6**2))
    torch.testing.assert_close(found[0, 1, 2:5, 2:5], gaussian / gaussian.sum())
    assert found[0, 1].sum() == pytest.approx(1) and not found[0, 0].any() and found[0, 1].count_nonzero() == 9
    torch.testing.assert_close(blur(torch.full((1, 2, 4, 4), 0.7), 2.0), torch.full((1, 2, 4, 4), 0.7))


def test_half_of_the_low_resolution_images_are_blurred_in_training_by_their_seeds_and_none_in_sampling() -> None:
    image, seeds = images(size=16), torch.arange(200)
    sharp, soft = (LowResolution(4, max_aug_level=0.0, blur_sigma=s) for s in (0.0, 0.6))
    plain = sharp.for_training({"image": image}, image, seeds, "up")[1]["lowres"]
    x_0, fields = soft.for_training({"image": image}, image, seeds, "up")
    blurred = enlarge(blur(reduce(image, 4), 0.6), 16)
    chosen = (fields["lowres"] - plain).flatten(1).abs().amax(1) > 1e-3
    assert torch.equal(x_0, image) and 0.4 < chosen.float().mean() < 0.6
    torch.testing.assert_close(fields["lowres"][~chosen], plain[~chosen])
    torch.testing.assert_close(fields["lowres"][chosen], blurred[chosen], rtol=0, atol=1e-3)  # level 0 is not quite without noise
    part = soft.for_training({"image": image[5:9]}, image[5:9], seeds[5:9], "up")[1]["lowres"]
    assert torch.equal(part, fields["lowres"][5:9])
    drawn = [m.for_sampling(images(3, 4), 16, [torch.Generator().manual_seed(s) for s in range(3)])["lowres"] for m in (sharp, soft)]
    assert torch.equal(*drawn)
