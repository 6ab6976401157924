"""The report: one self-contained HTML page for one or many finished evaluations, whatever families they are of.

`render(results)` makes the page, `Result.load(folder)` reads an evaluation, `show(value, unit)` writes a number.
"""

from __future__ import annotations

from typing import Any

from evaluators.report.first import Example, show
from evaluators.report.first import render as _render_first
from evaluators.report.result import Result


def render(results: Any, examples: Any = None) -> str:
    if examples is not None:
        return _render_first(results, examples)
    from evaluators.report.page import render as page

    return page(results)


__all__ = ["Example", "Result", "render", "show"]
