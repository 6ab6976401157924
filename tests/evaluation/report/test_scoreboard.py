"""The scoreboard: columns of one protocol each, the best in bold, controls around the models, times of one machine."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

from evaluation.report import FinishedEvaluation, render
from evaluation.report.scoreboard import Column, amount, columns, flat, scoreboard
from tests.evaluation.report_models import cells, models, row, rows_of, section


def test_the_scoreboard_has_floor_models_and_controls(page: str) -> None:
    board = re.search(r"<table class=\"board sortable\">.*?</table>", page, re.DOTALL).group(0)
    rows = rows_of(board)
    firsts = [row[0].split("&nbsp;")[-1] for row in rows[2:]]
    assert firsts == ["real images", "alpha", "beta &lt;b&gt;&amp;&quot;&#x27;", "gamma", "chance", "noise"]
    head = [cell.replace("_ ", "_").split()[0] for cell in rows[1][1:]]  # a line may break behind the underscore
    groups = [cell for cell in rows[0] if cell]
    assert groups == ["Alignment", "Quality", "Diversity", "Likelihood", "Memorisation", "Cost"]
    assert "all_correct" in head and all(re.search(r"[↑↓]", cell) for cell in rows[1][1:])
    alpha, gamma = rows[3], rows[5]
    exact = head.index("all_correct") + 1
    assert re.match(r"[\d.]+%", alpha[exact]) and gamma[exact] == "–"
    best = re.findall(r"<b>([^<]*)</b>", board)
    distance = next(i for i, cell in enumerate(alpha) if "634.4" in cell)
    assert "634.4" in best and not any(v in best for v in re.findall(r"[\d.]+", rows[4][distance])[:1])


def test_values_of_different_protocols_have_columns_of_their_own(results: list[FinishedEvaluation]) -> None:
    other = copy.deepcopy(results[1].data)
    row = other["splits"]["iid"]["metrics"]["fd_efficientnet_lite0"]
    row |= {"protocol_id": "bbbb1111", "protocol": row["protocol"] | {"resize": "nearest 32"}}
    page = render([results[0], FinishedEvaluation(other, results[1].folder)])
    board = rows_of(re.search(r"<table class=\"board\">.*?</table>", page, re.DOTALL).group(0))
    fds = [i for i, cell in enumerate(board[1]) if cell.replace(" ", "").startswith("fd_efficientnet_lite0")]
    assert len(fds) == 2
    for row, there in ((board[3], fds[0]), (board[4], fds[1])):
        assert [row[i] != "–" for i in fds] == [i == there for i in fds]
    assert "protocol resize: bicubic 64 and nearest 32" in section(page, "Scoreboard")
    assert (
        "<b>" not in re.search(r"<table class=\"board\">.*?</table>", page, re.DOTALL).group(0).split("634.4")[0][-4:]
    )


def split(**metrics: Any) -> dict[str, Any]:
    return {"n": 1000, "metrics": metrics}


def test_the_best_is_the_highest_or_the_lowest_and_nobody_where_all_are_equal() -> None:
    def best(higher: bool, *values: float) -> set[int]:
        return Column("fd", "quality", {i: row(v, higher=higher) for i, v in enumerate(values)}).best()

    assert best(True, 1.0, 3.0, 3.0) == {1, 2} and best(False, 1.0, 3.0, 3.0) == {0}
    assert best(True, 2.0, 2.0) == set() and best(True, 2.0) == set()


def test_a_count_has_a_letter_for_its_magnitude() -> None:
    assert [amount(v) for v in (9_999, 12_345, 6_960_000, 3.1e9, 2e12, 0.2123, 44)] == [
        "9,999", "12.3k", "6.96M", "3.1G", "2T", "0.212", "44",
    ]  # fmt: skip


def test_nested_entries_become_one_level() -> None:
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a b": 1, "a c d": 2, "e": 3}


def test_headlines_stand_above_and_everything_below() -> None:
    metrics = {"fd": row(2.0, headline=True), "kd": row(1.0, headline=False), "recall": row(0.5, section="diversity", headline=False)}
    found = models({"splits": {"iid": split(**metrics)}})
    assert [c.name for c in columns(found, "iid", headlines_only=True)] == ["fd", "recall"]  # the only one of its section
    assert [c.name for c in columns(found, "iid", headlines_only=False)] == ["fd", "kd", "recall"]
    board, everything = scoreboard(found).split("<details>")
    assert ">kd" not in board and ">kd" in everything


def test_alignment_is_what_is_read_first() -> None:
    metrics = {"fd": row(2.0), "recall": row(0.5, section="diversity"), "all_correct": row(0.5, "%", True, section="alignment")}
    head = cells(scoreboard(models({"splits": {"iid": split(**metrics)}})))
    assert head[0] == ["", "Alignment", "Quality", "Diversity"]
    assert [text.replace("_ ", "_").split()[0] for text in head[1][1:]] == ["all_correct", "fd", "recall"]


def test_controls_stand_around_the_models_as_a_range_where_they_differ() -> None:
    def result(real: float, chance: float) -> dict[str, Any]:
        return {"splits": {"iid": split(all_correct=row(0.5, "%", True, real=real, chance=chance))}}

    board = cells(scoreboard(models(result(0.9, 0.2), result(0.9, 0.1))).split("<details>")[0])
    assert board[2:] == [["real images", "90.0%"], ["m0", "50.0%"], ["m1", "50.0%"], ["chance", "10.0–20.0%"]]


def test_costs_stand_in_the_first_split_alone_with_their_own_group() -> None:
    result = {"cost": {"parameters": 6_960_000, "nfe": 44}, "splits": {"<a>": split(fd=row(2.0, low=1.5, high=2.5)), "b": split(fd=row(3.0))}}
    first, second = scoreboard(models(result)).split("<h3>")[1:]
    assert first.startswith("&lt;a&gt;, n = 1,000</h3>") and "<a>" not in first
    assert cells(first)[:3] == [
        ["", "Quality", "Cost"],
        ["", "fd ↓ lower is better", "parameters ↓ fewer is cheaper", "NFE ↓ network evaluations an image"],
        ["m0", "2 ± 0.5", "6.96M", "44"],
    ]
    assert 'colspan="2">Cost' in first and 'data-v="6960000"' in first and "NFE" not in second
    assert cells(first)[-1] == ["fd ↓ lower is better", "m0", "2", "1.5–2.5", "1,000", "–", "–", "–", "–"]


def test_seconds_of_different_machines_are_said_to_be() -> None:
    def note(*devices: str) -> bool:
        results = [{"cost": {"sec_per_image": 1.0, "device": d}, "splits": {"iid": split(fd=row(2.0))}} for d in devices]
        return "Times are of different machines: &lt;cpu&gt;, gpu." in scoreboard(models(*results))

    assert note("gpu", "<cpu>") and not note("gpu", "gpu")


def test_a_footnote_says_what_differs_by_the_cards_that_lie_beside(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    one = {"splits": {"iid": split(fd=row(2.0, protocol_id="a"))}}
    other = {"splits": {"iid": split(fd=row(3.0, protocol_id="b", protocol={"resize": "<x>"}))}}
    board = scoreboard(models(one, other, folder=tmp_path))
    assert "fd: columns a and b measured different things: protocol resize: – and &lt;x&gt;." in board
    (tmp_path / "cards" / "iid-fd.json").write_text(json.dumps({"protocol": {"resize": "same"}}))
    assert "columns a and b measured different things: data, prompts or seeds." in scoreboard(models(one, other, folder=tmp_path))
