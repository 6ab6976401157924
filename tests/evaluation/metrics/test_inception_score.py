"""Inception score: closed forms, torch-fidelity, parts."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics import inception_score
from evaluation.metrics.base import NotComputed
from evaluation.metrics.inception_score import InceptionScore, inception_scores, parts
from tests.evaluation.pixel_features import Pixels, fed, images, normal


def test_closed_forms() -> None:
    """Knowing nothing is 1; being sure of each of C classes equally often is C."""
    assert inception_scores(torch.full((50, 7), 1 / 7)) == pytest.approx([1], abs=1e-6)
    assert inception_scores(torch.eye(7).repeat(20, 1)) == pytest.approx([7], abs=1e-6)
    assert inception_scores(torch.eye(7)[:1].repeat(20, 1)) == pytest.approx([1], abs=1e-6)  # collapsed


@pytest.mark.parametrize("splits", [1, 10])
def test_agrees_with_torch_fidelity(splits: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 2 * normal(500, 20, 0, torch.float32)
    theirs = isc_features_to_metric(logits, splits=splits, shuffle=False)
    found = torch.tensor(inception_scores(logits.softmax(1), splits))
    assert float(found.mean()) == pytest.approx(theirs["inception_score_mean"], rel=2e-6)


def test_parts_hold_five_thousand_images_and_give_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [parts(n) for n in (500, 9_999, 10_000, 50_000, 1_000_000)] == [1, 1, 2, 10, 10]
    monkeypatch.setattr(inception_score, "SPLIT_IMAGES", 100)
    evaluator = fed(InceptionScore(Pixels()), real=images(300, 0), fake=images(300, 1))
    values = evaluator.compute()
    assert evaluator.protocol()["parts"] == 3
    assert values["is_pixels_raw_low"] < values["is_pixels_raw"] < values["is_pixels_raw_high"]
    assert values["is_pixels_raw"] == pytest.approx(values["is_pixels_raw_real"], rel=0.1)
    assert evaluator.needs == frozenset() and evaluator.higher_is_better


def test_wants_as_many_images_as_inception_has_classes() -> None:
    class Inception(Pixels):
        distance_name = "fid"

    evaluator = fed(InceptionScore(Inception()), real=images(200, 0), fake=images(200, 1))
    assert evaluator.name == "inception_score"
    with pytest.raises(NotComputed, match="at least 1000, got 200: it cannot exceed the number of images"):
        evaluator.compute()


def test_the_interval_is_that_of_a_mean_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_score, "SPLIT_IMAGES", 100)
    evaluator = fed(InceptionScore(Pixels(), controls=False), real=images(400, 0), fake=images(400, 1))
    values = evaluator.compute()
    each = torch.tensor(inception_scores(evaluator.rows.column("fake"), 4), dtype=torch.float64)
    mean, half = float(each.mean()), 1.96 * float(each.std()) / 4**0.5
    found = (values["is_pixels_raw_low"], values["is_pixels_raw"], values["is_pixels_raw_high"])
    assert found == pytest.approx((mean - half, mean, mean + half), rel=1e-9)
