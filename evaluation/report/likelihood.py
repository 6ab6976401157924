"""Likelihoods with what kind of bound they are: numbers of different kinds are not compared."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from evaluation.report.html_parts import (
    Model, charts, direction, figure, interval, metric, metric_names, split_names, table,
)  # fmt: skip
from evaluation.report.scoreboard import flat
from evaluation.report.svg_charts import (
    NUM_COLOURS, Point, Series, colour_class, histogram, nice_axis, show, xy_chart,
)  # fmt: skip


def likelihood(models: Sequence[Model]) -> str:
    """One row per model, split and number of the section, with its bound and the rest of its protocol."""
    rows = _rows(models, "likelihood")
    found = [
        _histogram(model, split, details)
        for split in split_names(models)
        for model in models
        if (details := model.result.splits.get(split, {}).get("details", {}).get("likelihood"))
    ]
    terms = [
        _terms(model, split, name, curve)
        for split in split_names(models)
        for model in models
        for name, curve in (model.result.splits.get(split, {}).get("details", {}).get("likelihood_terms") or {}).items()
    ]
    where = (
        "<p>Where the bits of a variational bound go: each point stands for one stretch of the chain, at its mean log-SNR. "
        "Coarse shapes are told on the left, fine detail on the right; what is left after the last step is the decoder's.</p>"
    )
    rows += where + charts(terms) if terms else ""
    how = (
        "<p>Negative log-likelihoods of the data that the model was made for and of other data. A model that knows "
        "its own kind puts it clearly to the left.</p>"
    )
    return rows + (how + charts(found) if found else "")


def _terms(model: Model, split: str, name: str, curve: dict[str, Any]) -> str:
    """The steps' terms over log-SNR; the prior's and the decoder's stand in the table."""
    nats, log_snr = curve["nats"], curve["log_snr"]
    points = [Point(x, y, text=f"{y:.4g} nats at log-SNR {x:.3g}") for x, y in zip(log_snr[1:-1], nats[1:-1])]
    words = [("prior", nats[0]), ("steps", sum(nats[1:-1])), ("decoder", nats[-1])]
    title = f"{model.name} ({split}), terms of the {name}"
    summary = f"{title}: " + ", ".join(f"{part} {show(value)} nats" for part, value in words)
    chart = ""
    if points:
        x, y = nice_axis(log_snr[1:-1], "log-SNR"), nice_axis(nats[1:-1], "nats per image", zero=True)
        chart = xy_chart([Series(model.name, points, model.number)], x, y, summary)
    named = ["prior", *["step"] * len(points), "decoder"]
    rows = [[part, f"{x:.3g}", show(value)] for part, x, value in zip(named, log_snr, nats)]
    return figure(title, chart, ["term", "log-SNR", "nats per image"], rows)


def _histogram(model: Model, split: str, details: dict[str, Any]) -> str:
    values = details["hist"]
    others = [f"c{(model.number + i) % NUM_COLOURS}" for i in range(1, len(values))]
    classes = dict(zip(values, [colour_class(model.number), *others]))
    title, x = f"{model.name} ({split})", f"{details['column']} per image"
    rows = [[name, len(v), *[show(float(q)) for q in np.quantile(v, (0.1, 0.5, 0.9))]] for name, v in values.items()]
    summary = "; ".join(f"{row[0]}: median {row[3]}" for row in rows)
    keys = "".join(f'<li><i class="{classes[name]}"></i>{escape(name)}</li>' for name in values)
    chart = histogram(values, classes, x, f"{title}, {x}: {summary}")
    head = ["images", "n", "10 % below", "median", "90 % below"]
    return figure(title, f'<ul class="legend">{keys}</ul>{chart}', head, rows)


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
