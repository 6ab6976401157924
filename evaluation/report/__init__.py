"""The report: one self-contained HTML page for one or many finished evaluations, whatever families they are of.

`render(results)` makes the page, `FinishedEvaluation.load(folder)` reads an evaluation, `show(value, unit)` writes a number.
"""

from __future__ import annotations

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.page import render
from evaluation.report.svg_charts import show

__all__ = ["FinishedEvaluation", "render", "show"]
