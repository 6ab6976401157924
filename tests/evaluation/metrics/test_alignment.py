"""Scene alignment: perfect on real renders, near zero on other prompts' images, and right about which skill failed."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.alignment import SceneAlignment, summary
from evaluation.metrics.base import NotComputed, by_metric
from scenes.grammar import SceneSpec, sample_spec
from scenes.render import render


def run(prompts, fake, **kwargs):
    evaluator = SceneAlignment(**kwargs)
    for start in range(0, len(prompts), 16):
        part = slice(start, start + 16)
        evaluator.update(prompts.real[part], fake[part], prompts.captions[part], specs=prompts.specs[part])
    return evaluator


def test_real_images_are_right_and_shuffled_ones_are_not(make_prompts) -> None:
    prompts = make_prompts(60)
    rows = by_metric(run(prompts, prompts.real).compute())
    assert list(rows)[:2] == ["all_correct", "skills_mean"]
    assert rows["all_correct"]["value"] == rows["all_correct"]["real"] == 1
    assert rows["all_correct"]["chance"] < 0.05
    assert rows["all_correct"]["n"] == 60 and 0.9 < rows["all_correct"]["low"] < rows["all_correct"]["high"] == 1
    assert rows["spelling"]["n"] < 60  # only words are spelt


def test_the_real_control_does_not_depend_on_the_generated_images(make_prompts) -> None:
    prompts = make_prompts(24)
    rows = by_metric(run(prompts, torch.zeros_like(prompts.real)).compute())
    assert rows["all_correct"]["value"] == 0 and rows["all_correct"]["real"] == 1
    assert rows["presence"]["value"] == 0


def test_an_edit_of_one_attribute_is_named(make_prompts) -> None:
    spec = SceneSpec.from_dict(
        {"kind": "single", "groups": [{"count": 2, "size": "large", "colour": "red", "shape": "circle"}]}
    )
    other = SceneSpec.from_dict(
        {"kind": "single", "groups": [{"count": 2, "size": "large", "colour": "blue", "shape": "circle"}]}
    )
    image, wrong = (torch.from_numpy(render(s, 3, 64)[0].copy()).permute(2, 0, 1)[None] for s in (spec, other))
    evaluator = SceneAlignment()
    evaluator.update(image, wrong, ["two large red circles"], specs=[spec.to_dict()])
    assert evaluator.details()["wrong"] == [["colour", "binding"]]
    confusion = evaluator.details()["count_confusion"]
    assert confusion[2][2] == 1 and sum(map(sum, confusion)) == 1
    assert "all_correct_chance" not in evaluator.compute()  # one image cannot be shuffled


def test_controls_can_be_left_out(make_prompts) -> None:
    prompts = make_prompts(8)
    assert not any(key.endswith(("_real", "_chance")) for key in run(prompts, prompts.real, controls=False).compute())


def test_refuses_float_images_and_wrong_numbers_of_specs(make_prompts) -> None:
    prompts = make_prompts(4)
    with pytest.raises(ValueError, match="3 specs for 4"):
        SceneAlignment().update(prompts.real, prompts.real, None, specs=prompts.specs[:3])
    with pytest.raises(ValueError, match="fake must be uint8"):
        SceneAlignment().update(prompts.real, prompts.real.float(), None, specs=prompts.specs)
    with pytest.raises(NotComputed):
        SceneAlignment().compute()


def test_the_mean_over_skills_leaves_exact_out() -> None:
    rows = summary([{"all_correct": 0.0, "count": 1.0, "colour": 0.5}, {"all_correct": 1.0, "count": 1.0}])
    assert list(rows) == ["all_correct", "skills_mean", "count", "colour"]
    assert rows["skills_mean"]["mean"] == pytest.approx((1.0 + 0.5) / 2) and rows["all_correct"]["mean"] == 0.5


def test_a_confusion_has_a_row_for_what_was_asked_and_a_column_for_what_was_found() -> None:
    specs = [sample_spec(i, "scenes_simple") for i in range(40)]
    one = next(s for s in specs if sum(g.count for g in s.groups) == 1)
    two = next(s for s in specs if sum(g.count for g in s.groups) == 2)
    image = torch.from_numpy(render(two, 0, 64)[0].copy()).permute(2, 0, 1)[None]
    evaluator = SceneAlignment(controls=False)
    evaluator.update(image, image, ["one"], specs=[one.to_dict()])
    confusion = evaluator.details()["count_confusion"]
    assert confusion[1][2] == 1 and sum(map(sum, confusion)) == 1
