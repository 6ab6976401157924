"""What distances of features share: which sets are judged, under which names, and noise that belongs to an image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evaluation.metrics.feature_distance import MIN_IMAGES, FeatureEvaluator, noise_like
from tests.evaluation.pixel_features import Pixels, fed, images


class Shift(FeatureEvaluator):
    """Distance of the means, with an interval; remembers what was judged."""

    name, headlines = "shift", ("shift",)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], dict[str, float]]:
        self.judged: list[Tensor] = []

        def judge(features: Tensor) -> dict[str, float]:
            self.judged.append(features)
            value = float((features.mean() - reference.mean()).abs())
            return {"shift": value, "shift_low": value - 1, "shift_high": value + 1}

        return judge


def sets(n: int = MIN_IMAGES) -> dict[str, Tensor]:
    return {"real": images(n, 0, 100, 120), "fake": images(n, 1, 200, 220), "reference": images(n, 2, 100, 120)}


def level(image_u8: Tensor) -> Tensor:
    return image_u8.flatten(1)[:, :16].float() / 255


def test_every_control_is_judged_by_its_own_images() -> None:
    given, evaluator = sets(), Shift(Pixels())
    values = fed(evaluator, **given).compute()
    noise = noise_like(given["fake"], range(MIN_IMAGES))
    for found, image in zip(evaluator.judged, (given["fake"], given["real"], noise), strict=True):
        assert torch.equal(found, level(image))
    middle = level(given["reference"]).mean()
    expected = {"shift": given["fake"], "shift_real": given["real"], "shift_noise": noise}
    for name, image in expected.items():
        assert values[name] == pytest.approx(float((level(image).mean() - middle).abs()), rel=1e-5)
    assert values["shift_real"] < 0.02 < values["shift_noise"] < values["shift"]
    assert set(values) == {*expected, "shift_low", "shift_high", "shift_n"} and values["shift_n"] == MIN_IMAGES


def test_without_controls_only_generated_images_are_judged() -> None:
    evaluator = Shift(Pixels(), controls=False)
    values = fed(evaluator, **sets()).compute()
    assert set(values) == {"shift", "shift_low", "shift_high", "shift_n"} and len(evaluator.judged) == 1
    assert set(evaluator.rows.names) == {"fake", "reference"}


def test_noise_belongs_to_an_images_number_and_fills_the_range() -> None:
    like = images(40, 0, side=8)
    noise = noise_like(like, range(40))
    assert noise.shape == like.shape and noise.dtype == torch.uint8
    assert torch.equal(noise_like(like[:2], [7, 3]), noise[[7, 3]])
    assert len({tuple(image.flatten().tolist()) for image in noise}) == 40
    assert set(noise.unique().tolist()) == set(range(256)), "black and white among them"
