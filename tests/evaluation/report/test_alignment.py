"""Alignment on the page: bars with controls, what novelty costs, what was mistaken for what, and verdicts by rule."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from evaluation.report.alignment import (
    EXAMPLES, confusions, difference, examples, gaps, points, product, product_of_skills, skills,
)  # fmt: skip
from tests.evaluation.report_models import cells, models, row


def test_a_gap_has_newcombes_interval() -> None:
    # Newcombe 1998, table II, example (a), method 10: 56 of 70 against 48 of 80.
    def share(k: int, n: int, z: float = 1.959964) -> dict[str, float]:
        middle, half = k + z * z / 2, z * (k * (n - k) / n + z * z / 4) ** 0.5
        return {"value": k / n, "low": (middle - half) / (n + z * z), "high": (middle + half) / (n + z * z)}

    assert difference(share(48, 80), share(56, 70)) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert np.isnan(difference(share(48, 80), {"value": 0.5})[1])


def test_product_of_skills_is_exact_for_independent_skills_and_low_for_failures_that_coincide() -> None:
    def one(count: float, colour: float) -> dict[str, float]:
        return {"presence": 1.0, "count": count, "colour": colour, "all_correct": float(count == colour == 1)}

    independent = [one(a, b) for a in (1, 1, 0) for b in (1, 0)]
    assert product_of_skills(independent) == pytest.approx((1 / 3, 1 / 3))
    together = [one(1, 1), one(0, 0)]
    assert product_of_skills(together) == (0.25, 0.5)


def share(value: float, protocol: str = "a", **more: Any) -> dict[str, Any]:
    return row(value, "%", True, "alignment", protocol_id=protocol, n=10, **more)


def split(details: dict[str, Any] | None = None, **metrics: Any) -> dict[str, Any]:
    return {"n": 2, "metrics": metrics, "details": details or {}}


def test_a_bar_stands_with_its_interval_and_controls() -> None:
    exact = share(0.5, low=0.25, high=0.75, real=1.0, chance=0.125)
    shown = skills(models({"splits": {"<iid>": split(all_correct=exact, loss=row(3.0, section="alignment"))}}))
    assert cells(shown) == [
        ["skill", "model", "share", "95 % interval", "n", "real images", "chance", "reconstructions"],
        ["all_correct", "m0", "50.0%", "25.0–75.0%", "10", "100.0%", "12.5%", "–"],
    ]
    assert "&lt;iid&gt;: all_correct: m0 50.0%" in shown and "<iid>" not in shown
    assert [name for name in ("real", "chance", "reconstruction") if f'"level {name}"' in shown] == ["real", "chance"]
    assert [name for name in ("real", "chance", "reconstruction") if f'"tick {name}"' in shown] == ["real", "chance"]
    assert skills(models({"splits": {"iid": split(fd=share(1.0) | {"section": "quality"})}})) == ""


def test_skills_of_other_protocols_share_no_chart() -> None:
    def titles(*protocols: str) -> list[str]:
        shown = skills(models(*({"splits": {"iid": split(all_correct=share(0.5, one))}} for one in protocols)))
        return re.findall("<figcaption>(.*?)</figcaption>", shown)

    assert titles("a", "a") == ["iid"] and titles("a", "b") == ["iid: m0", "iid: m1"]


def test_a_gap_is_the_other_split_less_the_first() -> None:
    ends = dict(low=0.4, high=0.9), dict(low=0.2, high=0.4)
    shown = gaps(models({"splits": {"iid": split(all_correct=share(0.8, **ends[0])), "<new>": split(all_correct=share(0.3, **ends[1]))}}))
    head, found = cells(shown)
    assert head == ["split", "model", "all_correct on iid", "all_correct here", "gap in points", "95 % interval"]
    assert found[:5] == ["&lt;new&gt;", "m0", "80.0%", "30.0%", "-50.0"] and found[5] == "-64.1 to -8.8"
    assert "&lt;new&gt;: m0 30.0%, -50.0 points from iid" in shown and "<new>" not in shown
    assert gaps(models({"splits": {"iid": split(all_correct=share(0.8))}})) == ""
    assert (points(0.1234), points(-0.5), points(float("nan"))) == ("+12.3", "-50.0", "–")


def test_the_product_stands_before_the_measured_share() -> None:
    scores = [{"count": 1.0, "colour": 1.0, "all_correct": 1.0}, {"count": 0.0, "colour": 0.0, "all_correct": 0.0}]
    shown = product(models({"splits": {"<iid>": split({"scores": scores}), "combo": split()}}))
    assert cells(shown)[1:] == [["&lt;iid&gt;", "m0", "25.0%", "50.0%", "+25.0"]] and "<iid>" not in shown
    assert product(models({"splits": {"iid": split({"scores": [{"count": 1.0}]})}})) == ""


def test_rows_of_a_confusion_are_what_was_asked_for() -> None:
    found = {"labels": ["cat", "<dog>"], "counts": [[3, 1], [0, 2]]}
    shown = confusions(models({"splits": {"iid": split({"kind_of_confusion": found})}}))
    assert cells(shown) == [["asked \\ found", "cat", "&lt;dog&gt;"], ["cat", "3", "1"], ["&lt;dog&gt;", "", "2"]]
    assert re.findall(r"<td class=same[^>]*>(\d)", shown) == ["3", "2"]
    assert re.findall(r"--share:(\d+)%", shown) == ["75", "25", "0", "100"]
    assert "kind of: m0 (iid)" in shown and "<dog>" not in shown


def test_counts_without_names_are_numbered_and_the_last_is_open() -> None:
    details = {"count_confusion": [[0, 0], [1, 2]]}
    shown = confusions(models({"splits": {"iid": split(details), "<b>": split(details)}}))
    opened, folded = shown.split("<details>")
    assert cells(opened) == [["asked \\ found", "0", "1+"], ["1+", "1", "2"]]
    assert folded.startswith("<summary>Asked and found, &lt;b&gt;</summary>") and "<b>" not in shown
    assert confusions(models({"splits": {"iid": split({"count_confusion": [[0, 0], [0, 0]]})}})) == ""


def test_verdicts_are_of_the_first_right_and_the_first_wrong(tmp_path) -> None:
    from PIL import Image

    (tmp_path / "s").mkdir()
    for i in range(12):
        Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(tmp_path / "s" / f"{i:05d}.png")
    scores = [{"<count>": float(i < 5), "colour": 0.5 if i == 5 else 1.0, "all_correct": float(i < 5)} for i in range(12)]
    entry = {"n": 12, "samples": "s", "captions": [f"<p{i}>" for i in range(12)], "details": {"scores": scores, "read": ["<r>"]}}
    shown = examples(models({"splits": {"iid": entry}}, folder=tmp_path))
    head, *rows = cells(shown)
    assert head == ["caption", "m0"] and len(rows) == 2 * EXAMPLES
    assert [one[0] for one in rows] == [f"&lt;p{i}&gt;" for i in (0, 1, 2, 5, 6, 7)]
    assert rows[0][1] == "✓ &lt;count&gt; ✓ colour read as: &lt;r&gt;" and rows[3][1] == "✗ &lt;count&gt; ✗ colour 50%"
    assert rows[4][1] == "✗ &lt;count&gt; ✓ colour" and not re.search("<p0>|<count>|<r>", shown)
    assert 'class="no">✗' in shown and 'alt="m0, prompt: &lt;p0&gt;"' in shown
