"""The table of costs, and the charts of quality over time: only what is comparable shares a chart."""

from __future__ import annotations

from typing import Any

from evaluation.report.cost import cost
from tests.evaluation.report_models import cells, models, row


def timed(sec: float, fd: float, device: str = "cpu", protocol: str = "a", **costs: Any) -> dict[str, Any]:
    metrics = {"fd": row(fd, protocol_id=protocol, low=fd - 1, high=fd + 1)}
    return {"cost": {"sec_per_image": sec, "device": device, **costs}, "splits": {"iid": {"n": 4, "metrics": metrics}}}


def test_costs_are_written_with_their_units_and_only_where_known() -> None:
    spent = {"parameters": 6_960_000, "flops_per_image": 3.1e9, "nfe": 44, "train_sec": 5400, "device": "<gpu>", "batch_size": 8}
    shown = cost(models({"cost": spent, "splits": {}}, {"cost": {"parameters": 12}, "splits": {}}, {"splits": {}}))
    head, first, second, third = cells(shown)
    assert head == ["", "parameters", "FLOPs an image", "network evaluations an image", "hours of training", "sampled on", "batch"]
    assert first == ["m0", "6,960,000", "3.1G", "44", "1.50", "&lt;gpu&gt;", "8"]
    assert second == ["m1", "12", "–", "–", "–", "–", "–"] and third == ["m2", *["–"] * 6]
    assert "Quality against time" not in shown and cost(models({"splits": {}})) == ""


def test_quality_stands_over_the_seconds_of_each_model() -> None:
    shown = cost(models(timed(0.5, 20.0), timed(2.0, 10.0)))
    assert "<figcaption>fd (iid)</figcaption>" in shown
    assert cells(shown)[-3:] == [["model", "seconds an image", "fd"], ["m0", "0.5", "20"], ["m1", "2", "10"]]
    assert "fd against seconds an image: m0: 20 in 0.5; m1: 10 in 2" in shown and 'class="whisker"' in shown


def test_models_of_other_protocols_or_devices_share_no_chart() -> None:
    assert "<figure>" not in cost(models(timed(0.5, 20.0), timed(2.0, 10.0, device="gpu")))
    assert "<figure>" not in cost(models(timed(0.5, 20.0), timed(2.0, 10.0, protocol="b")))
    three = cost(models(timed(0.5, 20.0), timed(2.0, 10.0, protocol="b"), timed(1.0, 15.0)))
    assert [one[0] for one in cells(three)[-2:]] == ["m0", "m2"] and three.count("<figure>") == 1
