"""What a model costs, and quality against seconds an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from evaluation.report.html_parts import Model, charts, direction, figure, legend, metric, metric_names, split_names, table
from evaluation.report.scoreboard import amount
from evaluation.report.svg_charts import Point, Series, nice_axis, show, xy_chart

ENTRIES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "parameters": ("parameters", lambda v: f"{v:,}"),
    "flops_per_image": ("FLOPs an image", amount),
    "nfe": ("network evaluations an image", lambda v: f"{v:,g}"),
    "sec_per_image": ("seconds an image, median", lambda v: show(v)),
    "sec_per_image_min": ("seconds an image, least", lambda v: show(v)),
    "images_seen": ("images seen in training", lambda v: f"{v:,}"),
    "train_sec": ("hours of training", lambda v: f"{v / 3600:.2f}"),
    "device": ("sampled on", str),
    "batch_size": ("batch", str),
}


def cost(models: Sequence[Model]) -> str:
    """The table of costs, and every quality over seconds where several models have both."""
    spent = [model.result.data.get("cost") or {} for model in models]
    there = [name for name in ENTRIES if any(one.get(name) is not None for one in spent)]
    if not there:
        return ""
    rows = [
        [model.chip, *[escape(ENTRIES[n][1](one[n])) if one.get(n) is not None else "–" for n in there]]
        for model, one in zip(models, spent)
    ]
    shown = table(["", *[ENTRIES[name][0] for name in there]], rows, label="cost")
    timed = [model for model in models if (model.result.data.get("cost") or {}).get("sec_per_image")]
    drawn = _charts(timed) if len(timed) > 1 else []
    return shown + (f"<h3>Quality against time</h3>{legend(timed)}{charts(drawn)}" if drawn else "")


def _charts(models: Sequence[Model]) -> list[str]:
    """The first headline number of each kind on the first split."""
    drawn = []
    split = split_names(models)[0]
    for section in ("quality", "alignment", "text"):
        names = metric_names(models, split, section)
        if names:
            drawn += _chart(models, split, names[0])
    return drawn


def _chart(models: Sequence[Model], split: str, name: str) -> list[str]:
    groups: dict[tuple[Any, ...], list[Model]] = {}
    for model in models:
        if (row := metric(model, split, name)) is not None:
            groups.setdefault((row.get("protocol_id"), model.result.data["cost"].get("device")), []).append(model)
    drawn = []
    for group in groups.values():
        if len(group) < 2:
            continue
        series, rows, ys = [], [], []
        for model in group:
            row, sec = metric(model, split, name) or {}, model.result.data["cost"]["sec_per_image"]
            point = Point(sec, row["value"], row.get("low"), row.get("high"), model.name)
            series.append(Series(model.name, [point], model.number))
            ys += [v for v in (point.y, point.low, point.high) if v is not None]
            rows.append([model.name, show(sec), show(row["value"], row.get("unit", ""))])
        row = metric(group[0], split, name) or {}
        xs = [one.points[0].x for one in series]
        label = f"{name} against seconds an image: " + "; ".join(f"{who}: {value} in {sec}" for who, sec, value in rows)
        y = nice_axis(ys, direction(row), row.get("unit", ""), zero=row.get("unit") == "%")
        x = nice_axis(xs, "seconds an image", log=True)
        chart = xy_chart(series, x, y, label)
        drawn.append(figure(f"{name} ({split})", chart, ["model", "seconds an image", name], rows))
    return drawn
