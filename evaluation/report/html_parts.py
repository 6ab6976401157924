"""Pieces of HTML that every section uses: tables, figures with the table behind them, legends, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation.report.finished_evaluation import FinishedEvaluation
from evaluation.report.svg_charts import colour_class, mark, show

SECTIONS = ("quality", "diversity", "alignment", "text", "likelihood", "reconstruction", "memorisation")


@dataclass(frozen=True)
class Model:
    """One result on the page: its name, unique here, and the number of its colour and mark."""

    result: FinishedEvaluation
    name: str
    number: int

    @property
    def chip(self) -> str:
        """Its name with its colour and mark."""
        return f"{key(self.number)}&nbsp;{escape(self.name)}"


def models_of(results: Sequence[FinishedEvaluation]) -> list[Model]:
    """The results in the given order; a name that occurs again gets a number."""
    seen: dict[str, int] = {}
    models = []
    for number, result in enumerate(results):
        seen[result.name] = count = seen.get(result.name, 0) + 1
        models.append(Model(result, result.name if count == 1 else f"{result.name} ({count})", number))
    return models


def split_names(models: Iterable[Model]) -> list[str]:
    """Every split that some model was measured on, in order of appearance."""
    return list(dict.fromkeys(name for model in models for name in model.result.splits))


def metric(model: Model, split: str, name: str) -> dict[str, Any] | None:
    """One measured number with its circumstances, or None where it was not computed."""
    return model.result.splits.get(split, {}).get("metrics", {}).get(name)


def metric_names(models: Iterable[Model], split: str, section: str | None = None) -> list[str]:
    """Names of the numbers of a split, ordered by section, then by appearance; of one section where it is given."""
    found: dict[str, str] = {}
    for model in models:
        for name, row in model.result.splits.get(split, {}).get("metrics", {}).items():
            found.setdefault(name, row.get("section") or "quality")
    order = (*SECTIONS, *sorted(set(found.values()) - set(SECTIONS)))
    return [n for s in order if section in (None, s) for n, own in found.items() if own == s]


def key(number: int) -> str:
    """The colour and mark of a model, as it is drawn in every chart."""
    content = mark(6, 6, number)
    size = 'viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"'
    return f'<svg class="key {colour_class(number)}" {size}>{content}</svg>'


def section(title: str, *bodies: str) -> str:
    """A section with its heading; nothing at all where every body is empty."""
    body = "".join(bodies)
    return f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", groups: str = "", label: str = "") -> str:
    """A table in a box that scrolls by itself, so that the page never does; cells are HTML.

    Args:
        head: header cells; each row's first cell is its header.
        kind: class of the table; `groups`: a further row above the head; `label`: what the box shows, for readers.
    """
    cells = "".join(cell if cell.startswith("<th") else f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(_row(row) for row in rows)
    opening = f'<table class="{kind}">' if kind else "<table>"
    name = f' role="region" aria-label="{escape(label, quote=True)}"' if label else ""
    return (
        f'<div class="scroll" tabindex="0"{name}>{opening}<thead>{groups}<tr>{cells}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[str]) -> str:
    first = row[0] if row[0].startswith("<th") else f'<th scope="row">{row[0]}</th>'
    return f"<tr>{first}{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in row[1:])}</tr>"


def folded(summary: str, body: str) -> str:
    """Something to open; the summary is text."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def figure(title: str, chart: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A chart under its title, with the numbers behind it to open; without a head they stand elsewhere."""
    numbers = (
        table([escape(h) for h in head], [[escape(str(c)) for c in row] for row in rows], "numbers") if head else ""
    )
    return f"<figure><figcaption>{escape(title)}</figcaption>{chart}{folded('numbers', numbers)}</figure>"


def charts(figures: Sequence[str]) -> str:
    """Charts side by side as far as there is room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def legend(models: Sequence[Model], *others: tuple[str, str]) -> str:
    """Colours and marks of the models, then (class, text) of other things drawn."""
    items = [f"<li>{model.chip}</li>" for model in models]
    items += [f'<li><i class="{kind}"></i>{escape(text)}</li>' for kind, text in others]
    return f'<ul class="legend">{"".join(items)}</ul>'


def breakable(name: str) -> str:
    """A name that may break at its underscores."""
    return escape(name).replace("_", "_<wbr>")


def facts(pairs: dict[str, Any]) -> str:
    """Names and texts as a list of definitions."""
    rows = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(text))}</dd></div>" for name, text in pairs.items()
    )
    return f"<dl>{rows}</dl>" if rows else ""


def interval(row: dict[str, Any]) -> str:
    """`± half` where the 95 % interval is symmetric, `low to high` where it is not, nothing where there is none."""
    low, high, value, unit = row.get("low"), row.get("high"), row["value"], row.get("unit", "")
    if low is None or high is None:
        return ""
    half = (high - low) / 2
    if abs((high + low) / 2 - value) <= 0.1 * half:
        return f"± {show(half, unit)}"
    return span(low, high, unit)


def span(low: float, high: float, unit: str = "") -> str:
    """Two ends, the unit once where that reads well; `to` where a minus would run into the dash."""
    if low < 0 or high < 0:
        return f"{show(low, unit)} to {show(high, unit)}"
    return f"{show(low, unit).rstrip('%')}–{show(high, unit)}"


def direction(row: dict[str, Any]) -> str:
    """The arrow in words, and the unit."""
    unit = row.get("unit", "")
    arrow = "↑ higher is better" if row["higher_is_better"] else "↓ lower is better"
    return arrow + (f", {unit}" if unit and unit != "%" else "")
