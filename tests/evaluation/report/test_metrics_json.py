"""metrics.json from elsewhere: complete and plain afterwards, or refused in a line that names the entry."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evaluation.report.metrics_json import LARGEST, MAX_DEPTH, MAX_NAME, checked


def result(**entries: Any) -> dict[str, Any]:
    return {"name": "x", "splits": {"iid": {"n": 2, **entries}}}


def measured(**row: Any) -> dict[str, Any]:
    """What is left of a split with one metric."""
    row = {"value": 1.0, "higher_is_better": True} | row
    return checked(result(metrics={"fd": row}), "FILE")["splits"]["iid"]


def details(**given: Any) -> dict[str, Any]:
    return checked(result(details=given), "FILE")["splits"]["iid"]["details"]


def test_a_split_is_completed_and_nulls_are_dropped() -> None:
    assert checked(result() | {"cost": None, "later": 1}, "FILE") == {
        "name": "x", "splits": {"iid": {"n": 2, "metrics": {}, "not_computed": {}, "details": {}}}, "later": 1,
    }  # fmt: skip
    assert measured()["metrics"]["fd"] == {"value": 1.0, "higher_is_better": True, "protocol": {}, "protocol_id": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -2 * LARGEST])
def test_a_value_that_cannot_be_drawn_is_named_among_what_is_missing(value: float) -> None:
    found = measured(value=value)
    assert found["metrics"] == {} and found["not_computed"] == {"fd": f"its value is {value!r}"}
    kept = measured(low=value, high=2.0, real=value, chance=0.5)["metrics"]["fd"]
    assert not {"low", "high", "real"} & set(kept) and kept["chance"] == 0.5


def test_half_an_interval_is_none() -> None:
    assert not {"low", "high"} & set(measured(low=0.5)["metrics"]["fd"])
    assert measured(low=0.5, high=1.5)["metrics"]["fd"]["low"] == 0.5


def test_numbers_too_small_to_draw_are_zero() -> None:
    assert measured(value=1e-40)["metrics"]["fd"]["value"] == 0 and measured(value=1e-20)["metrics"]["fd"]["value"] == 1e-20
    assert measured(value=-LARGEST)["metrics"]["fd"]["value"] == -LARGEST


def test_text_keeps_only_what_a_page_can_show() -> None:
    assert checked(result() | {"title": "a\0b\u202e\nc"}, "FILE")["title"] == "a\ufffdb\ufffd\nc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"splits": {}}, "it lacks name"),
        (result(n=True), "splits iid n should be a whole number, not True"),
        (result(n=-1), "splits iid n should be a whole number, not -1"),
        (result(captions=["a"]), "splits iid has 1 captions for n=2"),
        (result(labels=[1, 2, 3]), "splits iid has 3 labels for n=2"),
        (result(captions=["a", 2]), r"splits iid captions\[1\] should be text, not 2"),
        (result(metrics={"fd": {"value": 1.0}}), "splits iid metrics fd lacks higher_is_better"),
        (result(metrics={"fd": {"value": "1", "higher_is_better": True}}), "fd value should be a number, not '1'"),
        (result(metrics={"../fd": {}}), "splits iid metrics: a key should be a name"),
        (result(metrics={"a" * (MAX_NAME + 1): {}}), f"should be a name of at most {MAX_NAME} characters"),
        ({"name": "x", "splits": {"a/b": {"n": 1}}}, "splits: a key should be a name, which is no path, not 'a/b'"),
        ({"name": "x", "splits": {}, "cost": {"nfe": -1}}, "cost nfe should be at least 0, not -1"),
        ({"name": "x", "splits": {}, "cost": {"train_sec": math.inf}}, "cost train_sec should be a number of at most 1e"),
        ({"name": "x", "splits": {}, "notes": "text"}, "notes should be a list, not 'text'"),
        ({"name": "x", "splits": {}, "sweeps": [{"option": "w"}]}, r"sweeps\[0\] lacks split"),
        (result(details={"colour_confusion": [[1, 2], [3]]}), r"colour_confusion\[1\] should be a list of 2"),
        (result(details={"colour_confusion": [[1], [3]]}), "colour_confusion should be a square list of lists"),
        (result(details={"colour_confusion": {"labels": ["a"], "counts": [[1, 2], [3, 4]]}}), "labels should be 2 names"),
        (result(details={"fd_curve": {"n": [1, 2], "value": [1.0]}}), "fd_curve value should be 2 numbers, as many as n"),
        (result(details={"fd_curve": {"n": [0], "value": [1.0]}}), r"fd_curve n\[0\] should be above 0, not 0"),
        (result(details={"memorisation": {"pairs": [{"fake": 1}]}}), r"pairs\[0\] lacks train"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_in_one_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^FILE: .*{message}.*: not what evaluate.py writes$"):
        checked(data, "FILE")


def test_nesting_has_a_limit() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(ValueError, match="FILE: it is nested too deep"):
        checked(result() | {"model": deep}, "FILE")


def test_points_and_histograms_without_numbers_are_left_out() -> None:
    point = {"x": 1.0, "nfe": None, "all_correct": 0.5, "fd": None}
    sweep = {"option": "w", "split": "iid", "n": 2, "metrics": {"all_correct": "%"}, "points": [point]}
    assert checked(result() | {"sweeps": [sweep]}, "FILE")["sweeps"][0]["points"] == [{"x": 1.0, "all_correct": 0.5}]
    assert details(likelihood={"hist": {"own": []}, "column": "nats"}) == {"likelihood": None}
    assert details(likelihood={"hist": {"own": [1], "b": []}, "column": "nats"})["likelihood"]["hist"] == {"own": [1]}
    assert details(fd_curve={"n": []}, fd_confusion=[[1, 2], [3, 4]]) == {"fd_curve": {}, "fd_confusion": [[1, 2], [3, 4]]}
