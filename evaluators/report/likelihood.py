"""Likelihoods with what kind of bound they are: numbers of different kinds are not compared."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from evaluators.charts import show
from evaluators.report.parts import Model, direction, interval, metric, metric_names, split_names, table
from evaluators.report.scoreboard import flat


def likelihood(models: Sequence[Model]) -> str:
    """One row per model, split and number of the section, with its bound and the rest of its protocol."""
    return _rows(models, "likelihood")


def reconstruction(models: Sequence[Model]) -> str:
    """The same for images that the models encode and decode."""
    return _rows(models, "reconstruction")


def _rows(models: Sequence[Model], section: str) -> str:
    rows = []
    for split in split_names(models):
        for name in metric_names(models, split, section):
            for model in models:
                if (row := metric(model, split, name)) is None:
                    continue
                kept = flat(row.get("protocol") or {}).items()
                protocol = ", ".join(f"{key} {value}" for key, value in kept if value is not None) or "–"
                real = show(row["real"], row.get("unit", "")) if row.get("real") is not None else "–"
                value = f"<b>{show(row['value'], row.get('unit', ''))}</b> <small>{interval(row)}</small>"
                label = f"{escape(name)}<small>{escape(direction(row))}</small>"
                rows.append(
                    [label, escape(split), model.chip, value, real, f'<td class="long">{escape(protocol)}</td>']
                )
    head = ["metric", "split", "model", "value", "real images", "how it was measured"]
    return table(head, rows, label=section) if rows else ""
