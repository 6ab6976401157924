"""Quality against guidance and against network evaluations: one curve per model and series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from evaluation.report.html_parts import Model, charts, direction, figure, legend, metric, span
from evaluation.report.svg_charts import Point, Series, nice_axis, show, xy_chart

EVALUATIONS = ("num_steps", "sampler")  # what these options buy is counted in network evaluations


@dataclass(frozen=True)
class Run:
    """One sweep of one model."""

    model: Model
    sweep: dict[str, Any]

    @property
    def name(self) -> str:
        series = self.sweep.get("series") or ""
        return f"{self.model.name}, {series}" if series else self.model.name

    def measured(self, name: str) -> tuple[Any, ...]:
        """What sweeps must share to be drawn in one chart."""
        row = metric(self.model, self.sweep["split"], name) or {}
        return self.sweep["split"], self.sweep["n"], row.get("protocol_id")


def guidance(models: Sequence[Model]) -> str:
    """Every swept option but those that are counted in network evaluations."""
    bodies = []
    for option in _options(models):
        if option not in EVALUATIONS:
            runs = [Run(m, s) for m in models for s in m.result.data.get("sweeps") or [] if s["option"] == option]
            bodies.append(_option(runs, option))
    return "".join(bodies)


def evaluations(models: Sequence[Model]) -> str:
    """Steps as curves, then samplers as named points, over network evaluations an image."""
    bodies = []
    for option in EVALUATIONS:
        runs = [Run(m, s) for m in models for s in m.result.data.get("sweeps") or [] if s["option"] == option]
        counted = [run for run in runs if all(point.get("nfe") for point in run.sweep["points"])]
        drawn = _charts(counted, "network evaluations an image", lambda point: point["nfe"], log=True)
        bodies.append(f"<h3>Samplers</h3>{drawn}" if drawn and option == "sampler" else drawn)
    return "".join(bodies)


def _options(models: Sequence[Model]) -> list[str]:
    found = [sweep["option"] for model in models for sweep in model.result.data.get("sweeps") or []]
    return list(dict.fromkeys(found))


def _option(runs: list[Run], option: str) -> str:
    numeric = [run for run in runs if all(isinstance(p["x"], (int, float)) for p in run.sweep["points"])]
    name = option.replace("_", " ")
    return _charts(numeric, name, lambda point: point["x"], tradeoff=True)


def _charts(
    runs: list[Run], x: str, of: Callable[[dict[str, Any]], float], log: bool = False, tradeoff: bool = False
) -> str:
    runs = [run for run in runs if run.sweep["points"]]
    if not runs:
        return ""
    drawn, shared = [], _shared(runs)
    for name, unit in _metrics(runs).items():
        for group in _groups(runs, name):
            drawn.append(_against(group, name, unit, x, of, log))
    if tradeoff:
        drawn += _tradeoffs(runs)
    models = list({run.model.number: run.model for run in runs}.values())
    names = [name for name in dict.fromkeys(run.sweep.get("series") for run in runs) if name]
    dashes = f" Dashes tell {', '.join(names)} apart." if len(names) > 1 else ""
    n = ", ".join(f"{split}, n = {n:,}" for split, n in shared)
    text = f"<p>{escape(n)}, the same prompts and seeds at every point. Whiskers: 95 % intervals.{escape(dashes)}</p>"
    return text + legend(models, ("level real", "real images")) + charts(drawn)


def _shared(runs: list[Run]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((run.sweep["split"], run.sweep["n"]) for run in runs))


def _metrics(runs: list[Run]) -> dict[str, str]:
    return {name: unit for run in reversed(runs) for name, unit in run.sweep["metrics"].items()}


def _groups(runs: list[Run], name: str) -> list[list[Run]]:
    """Runs whose numbers of a metric may stand in one chart."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if any(name in point for point in run.sweep["points"]):
            groups.setdefault(run.measured(name), []).append(run)
    return list(groups.values())


def _against(runs: list[Run], name: str, unit: str, x: str, of: Callable[[dict[str, Any]], float], log: bool) -> str:
    series, rows, levels, ys = [], [], [], []
    for run in runs:
        points = [point for point in run.sweep["points"] if point.get(name) is not None]
        named = not all(isinstance(point["x"], (int, float)) for point in points)
        drawn = [
            Point(of(p), p[name], p.get(f"{name}_low"), p.get(f"{name}_high"), str(p["x"]) if named else "")
            for p in points
        ]
        series.append(Series(run.name, drawn, run.model.number, line=not named, dash=_dash(run, runs)))
        ys += [v for d in drawn for v in (d.y, d.low, d.high) if v is not None]
        reals = [p[f"{name}_real"] for p in points if p.get(f"{name}_real") is not None]
        levels += [(reals[0], "real")] if reals and not levels else []
        rows += [_numbers(run, point, name, unit, of) for point in points]
    xs = [point.x for one in series for point in one.points]
    row = next((r for run in runs if (r := metric(run.model, run.sweep["split"], name))), None)
    way = direction(row) if row else name
    chart = xy_chart(
        series,
        _x_axis(xs, x, log),
        nice_axis(ys + [v for v, _ in levels], way, unit, zero=unit == "%"),
        f"{name} against {x}: " + "; ".join(f"{r[0]} at {r[1]}: {r[2]}" for r in rows),
        levels,
    )
    split = runs[0].sweep["split"]
    return figure(f"{name} against {x} ({split})", chart, ["model", x, name, "95 % interval"], rows)


def _x_axis(xs: list[float], label: str, log: bool) -> Any:
    """The measured places as ticks while there is room for them, round numbers otherwise."""
    axis = nice_axis(xs, label, log=log)
    axis.low, axis.high = (min(xs), max(xs)) if min(xs) < max(xs) else (axis.low, axis.high)
    ticks: list[tuple[float, str]] = []
    for x in sorted(set(xs)):
        if not ticks or axis.share(x) - axis.share(ticks[-1][0]) > 0.09:
            ticks.append((x, f"{x:g}"))
    axis.ticks = ticks
    return axis


def _numbers(run: Run, point: dict[str, Any], name: str, unit: str, of: Callable[[dict[str, Any]], float]) -> list[str]:
    low, high = point.get(f"{name}_low"), point.get(f"{name}_high")
    spread = span(low, high, unit) if low is not None and high is not None else "–"
    label = point["x"] if isinstance(point["x"], str) else None
    return [run.name, f"{of(point):g}" + (f" ({label})" if label else ""), show(point[name], unit), spread]


def _dash(run: Run, runs: list[Run]) -> int:
    return list(dict.fromkeys(r.sweep.get("series") or "" for r in runs)).index(run.sweep.get("series") or "")


def _tradeoffs(runs: list[Run]) -> list[str]:
    """The first number to be lowered over the first share to be raised, every point named by the option's value."""
    units = _metrics(runs)
    rows = {
        name: next((r for run in runs if (r := metric(run.model, run.sweep["split"], name))), None) for name in units
    }
    up = next((name for name, row in rows.items() if row and row["higher_is_better"]), None)
    down = next((name for name, row in rows.items() if row and not row["higher_is_better"]), None)
    if not up or not down:
        return []
    drawn = []
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.measured(up), run.measured(down)), []).append(run)
    for group in groups.values():
        series, table = [], []
        for run in group:
            points = [p for p in run.sweep["points"] if p.get(up) is not None and p.get(down) is not None]
            drawn_points = [Point(p[up], p[down], text=f"{p['x']:g}") for p in points]
            series.append(Series(run.name, drawn_points, run.model.number, dash=_dash(run, group)))
            table += [[run.name, f"{p['x']:g}", show(p[up], units[up]), show(p[down], units[down])] for p in points]
        flat = [point for one in series for point in one.points]
        if len(flat) < 2:
            continue
        chart = xy_chart(
            series,
            nice_axis([p.x for p in flat], f"{up}, ↑ higher is better", units[up]),
            nice_axis([p.y for p in flat], f"{down}, ↓ lower is better", units[down]),
            f"{down} against {up}: " + "; ".join(f"{r[0]} at {r[1]}: {r[2]} and {r[3]}" for r in table),
        )
        option, split = group[0].sweep["option"].replace("_", " "), group[0].sweep["split"]
        drawn.append(figure(f"{down} against {up}, by {option} ({split})", chart, ["model", option, up, down], table))
    return drawn
