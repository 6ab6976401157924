"""Every model's headline numbers in one table per split, and all numbers to open below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from evaluation.metrics.card import MEASUREMENT
from evaluation.report.header import counts
from evaluation.report.html_parts import (
    Model,
    breakable,
    direction,
    folded,
    interval,
    metric,
    metric_names,
    span,
    split_names,
    table,
)
from evaluation.report.metrics_json import plain
from evaluation.report.svg_charts import show
from files import inside, read_json

COST = {
    "parameters": ("parameters", "↓ fewer is cheaper"),
    "nfe": ("NFE", "↓ network evaluations an image"),
    "sec_per_image": ("time", "↓ seconds an image"),
}
CONTROLS = {
    "real": ("real images", "the data's own images in place of generated ones"),
    "reconstruction": ("reconstructions", "real images that the model encoded and decoded"),
    "chance": ("chance", "the same images judged by other prompts"),
    "noise": ("noise", "noise in place of generated images"),
}
FIRST = "alignment"  # where there is any: what was asked for is read before how it is drawn


@dataclass
class Column:
    """One metric measured in one way: {number of the model: its row}."""

    name: str
    section: str
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    mark: str = ""  # tells it from other columns of the same metric

    @property
    def first(self) -> dict[str, Any]:
        return next(iter(self.rows.values()))

    def best(self) -> set[int]:
        """The models with the best value; nobody where all are equal."""
        if len(self.rows) < 2:
            return set()
        values = {number: row["value"] for number, row in self.rows.items()}
        top = (max if self.first["higher_is_better"] else min)(values.values())
        best = {number for number, value in values.items() if value == top}
        return best if len(best) < len(values) else set()


def scoreboard(models: Sequence[Model]) -> str:
    """A table per split: real images first, one row per model, noise and chance last."""
    splits = split_names(models)
    blocks = [_board(models, split, with_cost=split == splits[0]) for split in splits]
    if not any(blocks):
        return ""
    how = (
        "<p>Values with their 95 % intervals, the best of a column in bold. The first row is what the data's own "
        "images score in place of generated ones; the last rows are the same images judged by other prompts (chance), "
        "and noise in place of images. Values of different protocols never share a column.</p>"
    )
    return how + "".join(blocks)


def columns(models: Sequence[Model], split: str, headlines_only: bool) -> list[Column]:
    """The numbers of a split, one column per metric and protocol; a section without headlines shows all it has."""
    found = []
    rows = [row for m in models for row in m.result.splits.get(split, {}).get("metrics", {}).values()]
    led = {row.get("section") for row in rows if row.get("headline", True)}
    for name in metric_names(models, split):
        by_protocol: dict[Any, Column] = {}
        for model in models:
            row = metric(model, split, name)
            if row is not None and _shown(row, led, headlines_only):
                column = by_protocol.setdefault(row.get("protocol_id"), Column(name, row.get("section") or "quality"))
                column.rows[model.number] = row
        several = list(by_protocol.values())
        for i, column in enumerate(several):
            column.mark = "abcdefghijklmnopqrstuvwxyz"[i % 26] if len(several) > 1 else ""
        found += several
    return found


def _shown(row: dict[str, Any], led: set[Any], headlines_only: bool) -> bool:
    return not headlines_only or row.get("headline", True) or row.get("section") not in led


def _board(models: Sequence[Model], split: str, with_cost: bool) -> str:
    here = [model for model in models if split in model.result.splits]
    board = sorted(columns(here, split, headlines_only=True), key=lambda column: column.section != FIRST)
    if not board:
        return ""
    costs = [name for name in COST if with_cost and any(_cost(model, name) is not None for model in here)]
    groups = _groups([column.section for column in board] + ["cost"] * len(costs))
    head = [f'<th scope="col">{named(c)}<small>{escape(direction(c.first))}</small></th>' for c in board] + [
        f'<th scope="col">{COST[n][0]}<small>{COST[n][1]}</small></th>' for n in costs
    ]
    rows = [_control(board, "real", len(costs)), _control(board, "reconstruction", len(costs))]
    rows += [
        [
            f'<th scope="row" class="model">{model.chip}</th>',
            *[_cell(c, model) for c in board],
            *[_spent(model, n) for n in costs],
        ]
        for model in here
    ]
    rows += [_control(board, control, len(costs)) for control in ("chance", "noise")]
    kind = "board sortable" if len(here) > 2 else "board"
    shown = table(["", *head], [row for row in rows if row], kind, groups, label=f"scoreboard of {split}")
    marks = "".join(f"<li>{line}</li>" for line in footnotes(here, split, board))
    notes = f'<ol class="footnotes">{marks}</ol>' if marks else ""
    rest = folded("All numbers", _everything(here, split))
    return f"<h3>{escape(split)}, n = {counts(here, split)}</h3>{shown}{notes}{rest}"


def named(column: Column) -> str:
    """The metric's name, which may break at its underscores, with the column's letter."""
    return breakable(column.name) + (f"<sup>{column.mark}</sup>" if column.mark else "")


def _groups(names: list[str]) -> str:
    cells, i = ["<td></td>"], 0
    while i < len(names):
        width = next((j for j in range(i, len(names)) if names[j] != names[i]), len(names)) - i
        cells.append(f'<th scope="colgroup" colspan="{width}">{escape(names[i].capitalize())}</th>')
        i += width
    return f'<tr class="groups">{"".join(cells)}</tr>'


def _cell(column: Column, model: Model) -> str:
    row = column.rows.get(model.number)
    if row is None:
        return '<td class="none" title="not computed here: the foot of the page says why">–</td>'
    text = show(row["value"], row.get("unit", ""))
    text = f"<b>{text}</b>" if model.number in column.best() else text
    small = f"<small>{interval(row)}</small>" if interval(row) else ""
    return f'<td data-v="{row["value"]:.9g}">{text}{small}</td>'


def _control(board: list[Column], control: str, num_costs: int) -> list[str]:
    """The row of a control; a range where it differs between models, since chance depends on their images."""
    cells = []
    for column in board:
        values = [row[control] for row in column.rows.values() if row.get(control) is not None]
        unit = column.first.get("unit", "")
        same = not values or show(min(values), unit) == show(max(values), unit)
        text = ("–" if not values else show(values[0], unit)) if same else span(min(values), max(values), unit)
        cells.append(f'<td class="control">{text}</td>')
    if not any(row.get(control) is not None for column in board for row in column.rows.values()):
        return []
    name, meaning = CONTROLS[control]
    first = f'<th scope="row" class="control" title="{meaning}">{name}</th>'
    return [first, *cells, *['<td class="control">–</td>'] * num_costs]


def _cost(model: Model, name: str) -> float | None:
    return (model.result.data.get("cost") or {}).get(name)


def _spent(model: Model, name: str) -> str:
    value = _cost(model, name)
    return '<td class="none">–</td>' if value is None else f'<td data-v="{value:.9g}">{amount(value)}</td>'


def amount(value: float) -> str:
    """A count with a letter for its magnitude."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"


def footnotes(models: Sequence[Model], split: str, board: list[Column]) -> list[str]:
    """What sets apart the columns of one metric, and seconds of different machines."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for name in dict.fromkeys(c.name for c in board if c.mark):
        first, *others = [c for c in board if c.name == name]
        for other in others:
            differ = "; ".join(_differences(_circumstances(models, split, first), _circumstances(models, split, other)))
            told.setdefault((first.mark, other.mark, differ or "data, prompts or seeds"), []).append(name)
    lines = [
        f"{escape(', '.join(names))}: columns {a} and {b} measured different things: {escape(differ)}."
        for (a, b, differ), names in told.items()
    ]
    devices = {(m.result.data.get("cost") or {}).get("device") for m in models if _cost(m, "sec_per_image") is not None}
    if len(devices) > 1:
        lines.append(f"Times are of different machines: {escape(', '.join(sorted(map(str, devices))))}.")
    return lines


def _differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """`name: a and b` of what differs; names that say the same again, as numbers of images do, are left out."""
    first: dict[tuple[str, str], str] = {}
    for key in one | other:
        values = (one.get(key, "–"), other.get(key, "–"))
        if values[0] != values[1]:
            first.setdefault(values, key)
    return [f"{key}: {a} and {b}" for (a, b), key in first.items()]


def _circumstances(models: Sequence[Model], split: str, column: Column) -> dict[str, str]:
    """What the column's values have in common: from the first one's card where it lies beside, else its row."""
    model = next(m for m in models if m.number in column.rows)
    row = column.first
    known = {"n": model.result.splits[split]["n"], "protocol": row.get("protocol") or {}, "unit": row.get("unit", "")}
    card = model.result.folder / "cards" / f"{split}-{column.name.replace('/', '-')}.json"
    if inside(card, model.result.folder):
        try:
            fields = plain(read_json(card))
        except (ValueError, FileNotFoundError):
            fields = {}
        known |= {name: fields[name] for name in MEASUREMENT if isinstance(fields, dict) and name in fields}
    return {key: _brief(value) for key, value in flat(known).items()}


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a b": 1}."""
    if not isinstance(value, dict):
        return {place: value}
    found: dict[str, Any] = {}
    for name, nested in value.items():
        found |= flat(nested, f"{place} {name}".strip())
    return found


def _everything(models: Sequence[Model], split: str) -> str:
    rows = []
    for column in columns(models, split, headlines_only=False):
        for model in models:
            row = column.rows.get(model.number)
            if row is None:
                continue
            unit = row.get("unit", "")
            controls = [show(row[k], unit) if row.get(k) is not None else "–" for k in CONTROLS]
            spread = span(row["low"], row["high"], unit) if interval(row) else "–"
            name = f"{named(column)}<small>{escape(direction(row))}</small>"
            n = row.get("n") or model.result.splits[split]["n"]
            rows.append([name, model.chip, show(row["value"], unit), spread, f"{n:,g}", *controls])
    head = ["metric", "model", "value", "95 % interval", "n", *[name for name, _ in CONTROLS.values()]]
    return table(head, rows, "numbers", label=f"all numbers of {split}")
