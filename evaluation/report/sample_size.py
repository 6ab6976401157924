"""How distances depend on the number of images, and what they would be with infinitely many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.report.html_parts import Model, charts, figure, legend, metric, split_names
from evaluation.report.svg_charts import Axis, Point, Series, nice_axis, show, xy_chart

Curve = tuple[Model, dict[str, Any]]


def distribution(models: Sequence[Model]) -> str:
    """Every `<metric>_curve` of the details over 1/n with its straight fit, whose start is the value at infinity."""
    drawn, used = [], {}
    for split in split_names(models):
        for (name, _), curves in _curves(models, split).items():
            drawn.append(_chart(name, split, curves))
            used |= {model.number: model for model, _ in curves}
    if not drawn:
        return ""
    how = (
        "<p>Fréchet distances fall with the number of images n at fixed quality, about as 1/n. The fit's value at n = "
        "∞ takes that away; R² says how straight the points lie.</p>"
    )
    return how + legend([used[n] for n in sorted(used)]) + charts(drawn)


def _curves(models: Sequence[Model], split: str) -> dict[tuple[str, Any], list[Curve]]:
    """{(metric, protocol): curves}."""
    found: dict[tuple[str, Any], list[Curve]] = {}
    for model in models:
        for name, curve in model.result.splits.get(split, {}).get("details", {}).items():
            if name.endswith("_curve") and isinstance(curve, dict) and curve.get("n"):
                measured = name.removesuffix("_curve")
                protocol = (metric(model, split, measured) or {}).get("protocol_id")
                found.setdefault((measured, protocol), []).append((model, curve))
    return found


def _chart(name: str, split: str, curves: Sequence[Curve]) -> str:
    widest = max(1 / n for _, curve in curves for n in curve["n"])
    series, rows, ys = [], [], []
    for model, curve in curves:
        points = [Point(1 / n, value) for n, value in zip(curve["n"], curve["value"])]
        series.append(Series(model.name, points, model.number, line=False))
        ys += [point.y for point in points]
        rows += [[model.name, f"{n:,}", show(value)] for n, value in zip(curve["n"], curve["value"])]
        if curve.get("fit"):
            intercept, slope = curve["fit"]
            ends = [Point(0.0, intercept, text=show(intercept)), Point(widest, intercept + slope * widest)]
            series.append(Series(f"{model.name}, fit", ends, model.number, dash=1, marks=False))
            ys += [point.y for point in ends]
            rows.append([model.name, f"∞ (fit, R² = {curve.get('r2', float('nan')):.4f})", show(intercept)])
    label = f"{name} over 1/n on {split}: " + "; ".join(f"{who} at n = {n}: {value}" for who, n, value in rows)
    chart = xy_chart(series, _axis(curves, widest), nice_axis(ys, "↓ lower is better", zero=True), label)
    return figure(f"{name} ({split})", chart, ["model", "n", name], rows)


def _axis(curves: Sequence[Curve], widest: float) -> Axis:
    """1/n with the n themselves as ticks, as far as they have room."""
    axis = Axis(0.0, widest, "number of images, spaced as 1/n")
    axis.ticks = [(0.0, "∞")]
    for n in sorted({n for _, curve in curves for n in curve["n"]}, reverse=True):
        if axis.share(1 / n) - axis.share(axis.ticks[-1][0]) > 0.11:
            axis.ticks.append((1 / n, f"{n:,}"))
    return axis
