"""Distances over 1/n: one chart a metric, split and protocol, with the fit's value at infinity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.html_parts import models_of
from evaluation.report.sample_size import distribution


def models(*protocols: str, fit: Any = (3.0, 100.0)) -> list[Any]:
    curve = {"n": [50, 100, 200], "value": [5.0, 4.0, 3.5], "fit": fit, "r2": 0.999}
    return models_of([
        FinishedEvaluation({"name": f"m{i}", "splits": {"iid": {
            "metrics": {"fd": {"protocol_id": protocol}}, "details": {"fd_curve": curve},
        }}}, Path("."))
        for i, protocol in enumerate(protocols)
    ])  # fmt: skip


def test_models_of_one_protocol_share_a_chart() -> None:
    assert distribution(models("a", "a")).count("<svg class=\"chart") == distribution(models("a")).count("<svg class=\"chart")
    assert distribution(models("a", "b")).count("fd (iid)") == 2 * distribution(models("a")).count("fd (iid)")


def test_the_fit_is_told_where_there_is_one() -> None:
    assert "∞ (fit, R² = 0.9990)" in distribution(models("a")) and "∞ (fit" not in distribution(models("a", fit=None))


def test_without_curves_there_is_nothing() -> None:
    assert distribution(models_of([FinishedEvaluation({"name": "a", "splits": {"iid": {}}}, Path("."))])) == ""
