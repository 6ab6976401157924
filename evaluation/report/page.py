"""The page: sections in the order in which they are read."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape

from evaluation.report import alignment, sample_pictures, sweep_curves
from evaluation.report.cost import cost
from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.header import ABSENT, absent, header, title
from evaluation.report.html_parts import Model, anchor, models_of, section
from evaluation.report.likelihood import likelihood, reconstruction
from evaluation.report.memorisation import memorisation
from evaluation.report.notes import notes, reproduce
from evaluation.report.sample_size import distribution
from evaluation.report.scoreboard import scoreboard
from evaluation.report.style import SORT, STYLE


# The page's text may come from other people. Should it ever be taken for code all the same, a browser runs no script but our
# own, which it knows by its hash, and asks no other place for anything.
_HASH = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
    f"'unsafe-inline'; script-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'\">"
)


def render(results: Sequence[FinishedEvaluation]) -> str:
    """One self-contained HTML page for one result or many; sections without data are absent.

    Raises:
        ValueError: there is no result.
    """
    if not results:
        raise ValueError("a report needs at least one result, got none")
    models = models_of(results)
    body = "".join(sections(models))
    headings = re.findall(r"<section id=\"[^\"]*\"><h2>([^<]*)</h2>", body)
    links = "".join(f'<a href="#{anchor(text)}">{text}</a>' for text in headings)
    script = f"<script>{SORT}</script>" if '<table class="board sortable">' in body else ""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{POLICY}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title(models))}</title><style>{STYLE}</style></head><body><main>"
        f"{header(models)}<nav>{links}</nav>{body}</main>{script}</body></html>\n"
    )
    return page.encode("utf-8", "replace").decode()  # halves of surrogate pairs cannot be written


def sections(models: Sequence[Model]) -> list[str]:
    """Every section that has something to show."""
    return [
        section("Scoreboard", scoreboard(models)),
        section("Samples", sample_pictures.samples(models), sample_pictures.reduced(models), sample_pictures.failures(models)),
        section("Quality against guidance", sweep_curves.guidance(models)),
        section("Quality against network evaluations", sweep_curves.evaluations(models)),
        section(
            "Alignment",
            alignment.skills(models),
            alignment.gaps(models),
            alignment.product(models),
            alignment.confusions(models),
            alignment.examples(models),
        ),
        section("Distances and the number of images", distribution(models)),
        section("Memorisation", memorisation(models)),
        section("Likelihood", likelihood(models)),
        section("Reconstruction", reconstruction(models)),
        section("Cost", cost(models)),
        section(ABSENT, absent(models)),
        section("How to read these numbers", notes(models)),
        section("How to reproduce", reproduce(models)),
    ]
