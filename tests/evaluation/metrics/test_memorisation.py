"""Memorisation: copies are counted, also under a little noise, and fresh images are not."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.memorisation import Memorisation, blurred, mann_whitney_z
from evaluation.metrics.prompt_set import PromptSet
from scenes.scoring import wilson
from tests.evaluation.pixel_features import Pixels, fed, images


def smooth(n: int, seed: int) -> Tensor:
    """Images with large structures, uint8 (n, 3, 16, 16)."""
    return F.interpolate(images(n, seed, side=3).float(), size=(16, 16), mode="bilinear").round().to(torch.uint8)


TRAIN, HOLDOUT, REAL = smooth(600, 0), smooth(300, 1), smooth(300, 2)


def panel(fake: Tensor, holdout: Tensor = HOLDOUT, batch: int = 64, **kwargs) -> Memorisation:
    evaluator = Memorisation(Pixels(64))
    evaluator.prepare(PromptSet("test", None, None, None, REAL, None, None, train=TRAIN, holdout=holdout))
    return fed(evaluator, real=REAL[: len(fake)], fake=fake, batch=batch, **kwargs)


def copied(share: float, noise: float = 0.0) -> Tensor:
    """Fresh images, of which the first ones are training images."""
    count = round(300 * share)
    fake = torch.cat([TRAIN[100 : 100 + count], smooth(300, 3)[count:]])
    moved = fake + noise * torch.randn(fake.shape, generator=torch.Generator().manual_seed(0))
    return moved.clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_copies_are_counted_to_a_point_or_so(share: float) -> None:
    values = panel(copied(share)).compute()
    for space in ("pixels_raw", "pixels"):
        found = values[f"memorised_{space}"]
        assert share - 0.01 <= found <= share + 0.04
        assert values[f"memorised_{space}_low"] <= found <= values[f"memorised_{space}_high"]
        assert values[f"memorised_{space}_real"] < 0.05 and values[f"memorised_{space}_chance"] == 0.01
        assert abs(values[f"z_u_{space}_real"]) < 4
        if share == 1:
            assert values[f"z_u_{space}"] < -15
    assert abs(values["fd_gap_pixels_raw_real"]) < 0.1


def test_copies_move_the_set_towards_the_training_set() -> None:
    fresh, copies = (panel(copied(share)).compute()["fd_gap_pixels_raw"] for share in (0, 1))
    assert copies < 0 < fresh < 0.1 and fresh - copies > 0.05


def test_noisy_copies_show_in_blurred_pixels() -> None:
    values = panel(copied(0.5, noise=6)).compute()
    assert values["memorised_pixels"] > 0.45
    assert values["memorised_pixels_raw"] < values["memorised_pixels"]  # raw pixels are what the noise moves


def test_the_closest_pairs_are_there_to_be_looked_at() -> None:
    evaluator = panel(copied(0.1))
    evaluator.compute()
    panel_details = json.loads(json.dumps(evaluator.details()))["memorisation"]
    pairs = panel_details["pairs"]
    assert len(pairs) == 16 and len({pair["fake"] for pair in pairs}) == 16
    for pair in pairs:
        assert pair["train"] == 100 + pair["fake"] and pair["feature_distance"] == pair["pixel_distance"] == 0
        picture = Image.open(io.BytesIO(base64.b64decode(pair["train_png"].partition(",")[2])))
        assert np.array_equal(np.asarray(picture), TRAIN[pair["train"]].permute(1, 2, 0).numpy())
    assert len(panel_details["hist"]["fake"]) == len(panel_details["hist"]["holdout"]) == 300
    assert sorted(panel_details["hist"]["fake"])[29] == 0


def test_batches_and_order_change_no_digit() -> None:
    fake = copied(0.2)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1)).tolist()
    assert panel(fake).compute() == panel(fake, batch=7, order=order).compute()


def test_too_few_images_are_not_computed() -> None:
    with pytest.raises(NotComputed, match="at least 128, got 100"):
        panel(copied(0)[:100]).compute()
    with pytest.raises(NotComputed, match="at least 100, got 50: held-out images set the scale"):
        panel(copied(0), holdout=HOLDOUT[:50]).compute()
    with pytest.raises(ValueError, match="training images are"):
        panel(copied(0)[..., :8])


def test_z_is_scipys() -> None:
    from scipy.stats import mannwhitneyu

    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, generator=draw) - 0.2, torch.randn(150, generator=draw)
    for x, y in ((a, b), ((a * 3).round(), (b * 3).round())):  # without and with ties
        p = mannwhitneyu(x.numpy(), y.numpy(), use_continuity=False, method="asymptotic").pvalue
        z = mann_whitney_z(x, y)
        below = float(torch.special.ndtr(torch.tensor(z, dtype=torch.float64)))
        assert z < 0 and 2 * below == pytest.approx(p, rel=1e-6)
    assert mann_whitney_z(torch.ones(5), torch.ones(7)) == 0


def test_blurred_pixels_are_means_of_areas() -> None:
    image = images(2, 0, side=16)
    expected = image.float().reshape(2, 3, 8, 2, 8, 2).mean((3, 5)).flatten(1) / 255
    torch.testing.assert_close(blurred(image), expected)


def test_shares_have_wilsons_interval() -> None:
    values = panel(copied(0.5)).compute()
    for space in ("pixels_raw", "pixels"):
        share = values[f"memorised_{space}"]
        expected = wilson(share * 300, 300)
        assert (values[f"memorised_{space}_low"], values[f"memorised_{space}_high"]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("train", "holdout"), [(TRAIN, HOLDOUT), (HOLDOUT, TRAIN)])
def test_the_gap_compares_equally_many_at_even_steps(train: Tensor, holdout: Tensor) -> None:
    evaluator = Memorisation(Pixels(64))
    evaluator.prepare(PromptSet("test", None, None, None, REAL, None, None, train=train, holdout=holdout))
    values = fed(evaluator, real=REAL, fake=smooth(300, 3)).compute()

    def features(image: Tensor) -> Tensor:
        return image.flatten(1)[:, :64].float() / 255

    sets = [features(image[:: len(image) // 300]) for image in (train, holdout)]
    for name, image in (("fd_gap_pixels_raw", smooth(300, 3)), ("fd_gap_pixels_raw_real", REAL)):
        to_train, to_holdout = (frechet_of_features(one, features(image)) for one in sets)
        assert values[name] == pytest.approx(to_train - to_holdout, rel=1e-6)
