"""Pieces of the page: nothing where there is nothing to show, and all text escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.html_parts import (
    anchor, breakable, charts, facts, figure, folded, metric, metric_names, models_of, section, split_names, table,
)  # fmt: skip


def result(name: str, **splits: dict[str, Any]) -> FinishedEvaluation:
    return FinishedEvaluation({"name": name, "splits": splits}, Path("."))


def test_models_keep_their_order_and_a_repeated_name_gets_a_number() -> None:
    models = models_of([result("a"), result("b"), result("a")])
    assert [model.number for model in models] == [0, 1, 2]
    assert models[0].name == "a" and models[1].name == "b" and models[2].name not in ("a", "b")


def test_splits_and_metrics_are_those_of_any_model() -> None:
    row = {"value": 1.0, "section": "quality"}
    models = models_of([result("a", iid={"metrics": {"x": row}}), result("b", iid={"metrics": {"y": row}}, word={})])
    assert split_names(models) == ["iid", "word"] and metric_names(models, "iid") == ["x", "y"]
    assert metric(models[0], "iid", "x") == row and metric(models[0], "word", "x") is None


def test_what_is_empty_is_absent() -> None:
    assert section("A title", "", "") == folded("more", "") == charts([]) == ""
    assert '<section id="a-title"><h2>A title</h2>x</section>' == section("A title", "x")
    assert anchor("What it costs, in s") == "what-it-costs-in-s"


def test_text_is_escaped_and_tables_scroll_by_themselves() -> None:
    assert "<b>" not in folded("<b>", "x") + breakable("<b>_c") + facts({"<b>": "<b>"})
    assert breakable("a_b") == "a_<wbr>b"
    chart = figure("<b>", "<svg></svg>", ["<b>"], [["<b>"]])
    assert "<b>" not in chart and "<svg></svg>" in chart
    grid = table(["", "x"], [["row", "1"]])
    assert grid.startswith("<div") and '<th scope="row">row</th>' in grid and "<td>1</td>" in grid
