"""Running evaluators: numbers with units and controls, reasons where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from evaluators.alignment import SceneAlignment
from evaluators.base import by_metric
from evaluators.extractors.inception import InceptionV3
from evaluators.frechet import FrechetDistance
from evaluators.measure import measure


def test_numbers_come_with_their_circumstances_and_reasons(make_prompts, tmp_path) -> None:
    prompts = make_prompts(20)
    evaluators = {"alignment": SceneAlignment(), "fid": FrechetDistance(InceptionV3(str(tmp_path / "none.pth")))}
    found = measure(evaluators, prompts, lambda indices: prompts.real[indices], batch_size=8)
    assert found.metrics["exact"]["value"] == 1 and found.metrics["exact"]["unit"] == "%"
    assert (
        found.metrics["exact"]["higher_is_better"]
        and found.metrics["exact"]["protocol"]["instrument"] == "scenes.parser"
    )
    assert "no Inception weights" in found.not_computed["fid"] and "fid" not in found.metrics
    assert len(found.details["wrong"]) == 20


def test_batch_size_changes_nothing(make_prompts) -> None:
    prompts = make_prompts(12)
    fake = prompts.real.roll(1, 0)
    one, many = (measure({"a": SceneAlignment()}, prompts, lambda i: fake[i], batch_size=b).metrics for b in (5, 64))
    assert one == many


def test_what_the_data_lacks_is_named(make_prompts) -> None:
    prompts = replace(make_prompts(4), specs=None)
    found = measure({"a": SceneAlignment()}, prompts, lambda indices: prompts.real[indices])
    assert (
        found.not_computed == {"exact": "needs specs, which this data or this model does not have"}
        and not found.metrics
    )


def test_a_real_error_is_not_swallowed(make_prompts) -> None:
    prompts = make_prompts(4)
    with pytest.raises(ValueError, match="uint8"):
        measure({"a": SceneAlignment()}, prompts, lambda indices: torch.zeros(len(indices), 3, 64, 64))


def test_by_metric_groups_suffixes_of_known_metrics_only() -> None:
    assert by_metric({"m": 1.0, "m_low": 0.5, "m_real": 2.0, "very_low": 3.0}) == {
        "m": {"value": 1.0, "low": 0.5, "real": 2.0},
        "very_low": {"value": 3.0},
    }
