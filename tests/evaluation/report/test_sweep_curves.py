"""Sweeps: curves over the option or over network evaluations, only what was measured alike in one chart."""

from __future__ import annotations

from typing import Any

from evaluation.report import FinishedEvaluation, render
from evaluation.report.sweep_curves import evaluations, guidance
from tests.evaluation.report_models import cells, changed, models, row


def test_sweeps_of_different_protocols_share_no_chart(results: list[FinishedEvaluation]) -> None:
    title = "all_correct against guidance scale (iid)"
    assert render(results).count(f">{title}<") == 1
    other = changed(results[1])
    other.data["splits"]["iid"]["metrics"]["all_correct"]["protocol_id"] = "bbbb1111"
    assert render([results[0], other]).count(f">{title}<") == 2


def swept(option: str, *points: dict[str, Any], series: str = "", protocol: str = "a") -> dict[str, Any]:
    metrics = {"all_correct": row(0.5, "%", True, protocol_id=protocol), "fd": row(9.0, protocol_id=protocol)}
    sweep = {"option": option, "series": series, "split": "<iid>", "n": 1000, "metrics": {"all_correct": "%", "fd": ""}}
    return {"splits": {"<iid>": {"n": 1000, "metrics": metrics}}, "sweeps": [sweep | {"points": list(points)}]}


def point(x: Any, exact: float, fd: float, **more: Any) -> dict[str, Any]:
    return {"x": x, "all_correct": exact, "fd": fd, **more}


GUIDANCE = (point(1.0, 0.25, 90.0, all_correct_low=0.2, all_correct_high=0.3, all_correct_real=1.0), point(3.0, 0.5, 80.0))


def test_guidance_stands_over_its_values_with_intervals_and_the_level_of_real_images() -> None:
    shown = guidance(models(swept("guidance_scale", *GUIDANCE)))
    assert "all_correct against guidance scale (&lt;iid&gt;)" in shown and "fd against guidance scale (&lt;iid&gt;)" in shown
    assert cells(shown)[:3] == [
        ["model", "guidance scale", "all_correct", "95 % interval"], ["m0", "1", "25.0%", "20.0–30.0%"], ["m0", "3", "50.0%", "–"],
    ]  # fmt: skip
    assert "&lt;iid&gt;, n = 1,000, the same prompts" in shown and "<iid>" not in shown
    assert shown.count('class="level real"') == 2  # the legend, and the one number that has its level
    assert evaluations(models(swept("guidance_scale", *GUIDANCE))) == ""


def test_the_trade_off_has_what_is_to_be_raised_across() -> None:
    shown = guidance(models(swept("guidance_scale", *GUIDANCE)))
    assert "fd against all_correct, by guidance scale (&lt;iid&gt;)" in shown and "all_correct, ↑ higher is better" in shown
    assert cells(shown)[-3:] == [
        ["model", "guidance scale", "all_correct", "fd"], ["m0", "1", "25.0%", "90"], ["m0", "3", "50.0%", "80"],
    ]  # fmt: skip


def test_steps_and_samplers_stand_over_network_evaluations() -> None:
    steps = swept("num_steps", point(4, 0.25, 90.0, nfe=8), point(8, 0.5, 80.0, nfe=16))
    named = swept("sampler", point("<ddim>", 0.25, 90.0, nfe=44))
    shown = evaluations(models(steps, named))
    curves, samplers = shown.split("<h3>Samplers</h3>")
    assert [one[1] for one in cells(curves)[1:3]] == ["8", "16"] and 'class="curve"' in curves
    assert cells(samplers)[1][:2] == ["m1", "44 (&lt;ddim&gt;)"] and "<ddim>" not in samplers
    assert guidance(models(steps, named)) == ""
    assert evaluations(models(swept("num_steps", point(4, 0.25, 90.0)))) == "", "evaluations were not counted"


def test_series_of_one_model_are_told_apart_by_dashes() -> None:
    both = swept("guidance_scale", *GUIDANCE, series="static")
    both["sweeps"] += swept("guidance_scale", *GUIDANCE, series="<dynamic>")["sweeps"]
    shown = guidance(models(both))
    assert "Dashes tell static, &lt;dynamic&gt; apart." in shown and "<dynamic>" not in shown
    assert {one[0] for one in cells(shown)} == {"model", "m0, static", "m0, &lt;dynamic&gt;"}
    assert shown.count("stroke-dasharray") == 3  # the second series, in each of the three charts
