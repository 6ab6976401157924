"""The top of the page: the title, how much was not computed; and the reasons at its foot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.header import absent, counts, header, missing_lines, title
from evaluation.report.html_parts import models_of


def models(*results: dict[str, Any]) -> list[Any]:
    return models_of([FinishedEvaluation({"name": f"m{i}", **data}, Path(".")) for i, data in enumerate(results)])


def test_one_model_has_its_title_and_several_their_number() -> None:
    one = {"title": "gan on mnist", "splits": {}}
    assert title(models(one)) == "gan on mnist" and title(models(one, one)) == "2 models compared"
    assert title(models({"splits": {}})) == "m0"


def test_a_reason_names_the_places_only_where_it_is_not_everywhere() -> None:
    lacking, there = {"n": 4, "not_computed": {"fid": "no weights"}}, {"n": 4, "not_computed": {}}
    assert missing_lines(models({"splits": {"iid": lacking, "word": lacking}})) == [("fid", "", "no weights")]
    assert missing_lines(models({"splits": {"iid": lacking, "word": there}})) == [("fid", " (m0: iid)", "no weights")]
    both = models({"splits": {"iid": lacking}}, {"splits": {"iid": there}})
    assert missing_lines(both) == [("fid", " (m0)", "no weights")]


def test_the_header_counts_metrics_and_escapes() -> None:
    split = {"n": 4, "metrics": {"a": {}, "b": {}}, "not_computed": {"<i>": "<i> is missing"}}
    found = models({"title": "<b>", "splits": {"iid": split}})
    page, reasons = header(found), absent(found)
    assert "2 metrics computed" in page and "1 not computed" in page
    assert "<b></b>" not in page and "<i>" not in page + reasons and "&lt;i&gt; is missing" in reasons


def test_the_number_of_images_of_a_split() -> None:
    found = models({"splits": {"iid": {"n": 4}}}, {"splits": {"iid": {"n": 5000}}}, {"splits": {}})
    assert counts(found, "iid") == "4 or 5,000"
