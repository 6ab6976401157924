"""The report: one self-contained HTML page for one or many finished evaluations, whatever families they are of.

`render(results)` makes the page, `Result.load(folder)` reads an evaluation, `show(value, unit)` writes a number.
"""

from __future__ import annotations

from evaluators.charts import show
from evaluators.report.page import render
from evaluators.report.result import Result

__all__ = ["Result", "render", "show"]
