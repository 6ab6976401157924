"""Models of a page from a few entries of what metrics.json holds, and what a reader finds in a table."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.html_parts import Model, models_of


def models(*results: dict[str, Any], folder: Path = Path(".")) -> list[Model]:
    """One model per result, called m0, m1, … where the result has no name."""
    return models_of([FinishedEvaluation({"name": f"m{i}", **data}, folder) for i, data in enumerate(results)])


def row(value: float, unit: str = "", higher: bool = False, section: str = "quality", **more: Any) -> dict[str, Any]:
    """One metric as metrics.json holds it."""
    return {"value": value, "unit": unit, "higher_is_better": higher, "section": section, **more}


def cells(html: str) -> list[list[str]]:
    """The text of every cell, table row by table row."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [[text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", one, re.DOTALL)] for one in rows]


def text(html: str) -> str:
    """What is left of HTML without its tags, with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html).replace("&nbsp;", " ")).strip()


def changed(result: FinishedEvaluation, **entries: object) -> FinishedEvaluation:
    """A copy of a result with other entries."""
    return FinishedEvaluation(copy.deepcopy(result.data) | entries, result.folder)


def section(page: str, title: str) -> str:
    """The text of one section, as a reader sees it."""
    found = re.search(rf"<h2>{re.escape(title)}</h2>(.*?)</section>", page, re.DOTALL)
    assert found, f"no section {title}"
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found.group(1)))


def rows_of(html: str) -> list[list[str]]:
    """Cells of every row, without their tags."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", " ", c).strip() for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]
