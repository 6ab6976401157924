"""The top of the page: what was evaluated. At its foot, what was not computed and why."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from evaluation.report.html_parts import Model, anchor, facts, folded, table

ABSENT = "Not computed"  # heading of the reasons
OPEN = 6  # reasons, and models with their circumstances, that need no opening


def title(models: Sequence[Model]) -> str:
    """The one model's title, or the number of models compared."""
    if len(models) == 1:
        return str(models[0].result.data.get("title") or models[0].name)
    return f"{len(models)} models compared"


def header(models: Sequence[Model]) -> str:
    """Title, circumstances, and the light: green for numbers that are there, amber for those that are not."""
    computed = {m for model in models for split in model.result.splits.values() for m in split.get("metrics", {})}
    missing = missing_lines(models)
    lights = f'<p class="lights"><span class="on">● {len(computed)} metrics computed</span>'
    lights += f'<a class="off" href="#{anchor(ABSENT)}">▲ {len(missing)} not computed</a></p>' if missing else "</p>"
    about = facts(told(models[0])) if len(models) == 1 else _compared(models)
    return f"<header><h1>{escape(title(models))}</h1>{about}{lights}</header>"


def absent(models: Sequence[Model]) -> str:
    """Every metric that was not computed, with the reason, those of one reason in a line."""
    joined: dict[tuple[str, str], list[str]] = {}
    for name, where, why in missing_lines(models):
        joined.setdefault((where, why), []).append(name)
    lines = [
        f"<li><b>{escape(', '.join(names))}</b>{escape(where)}: not computed: {escape(why)}</li>"
        for (where, why), names in joined.items()
    ]
    rest = folded(f"{len(lines) - OPEN} more reasons", _reasons(lines[OPEN:])) if len(lines) > OPEN else ""
    return _reasons(lines[:OPEN]) + rest if lines else ""


def _reasons(lines: Sequence[str]) -> str:
    return f'<ul class="absent">{"".join(lines)}</ul>'


def told(model: Model) -> dict[str, Any]:
    """What the result says of itself, as names and texts."""
    data = model.result.data
    splits = ", ".join(f"{name} ({split['n']:,})" for name, split in model.result.splits.items())
    source = {"data": (data.get("data") or {}).get("name")} if "data" not in data.get("facts", {}) else {}
    given = {"family": data.get("family"), **source, **data.get("facts", {}), "images per split": splits}
    given |= {name: data.get(name) for name in ("date", "commit") if name not in given}
    sampling = ", ".join(f"{name} {value}" for name, value in (data.get("sampling") or {}).items())
    if sampling and "sampling" not in given:
        given["sampling"] = sampling
    return {name: text for name, text in given.items() if text}


def _compared(models: Sequence[Model]) -> str:
    """What all share once, and a table of what differs."""
    each = [told(model) for model in models]
    names = list(dict.fromkeys(name for one in each for name in one))
    shared = {n: each[0][n] for n in names if n in each[0] and all(one.get(n) == each[0][n] for one in each)}
    rest = [name for name in names if name not in shared]
    rows = [[escape(name), *[escape(str(one.get(name, "–"))) for one in each]] for name in rest]
    different = table(["", *[model.chip for model in models]], rows, "facts", label="what differs between the models")
    if len(models) > OPEN:
        different = folded("What differs between the models", different)
    return facts(shared) + (different if rows else "")


def missing_lines(models: Sequence[Model]) -> list[tuple[str, str, str]]:
    """(metric, where, why) of everything not computed; `where` is empty when it is nowhere."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for model in models:
        for split, entry in model.result.splits.items():
            for name, why in entry.get("not_computed", {}).items():
                places.setdefault((name, why), []).append((model.name, split))
    everywhere = [(model.name, split) for model in models for split in model.result.splits]
    lines = []
    for (name, why), found in places.items():
        where = [] if len(found) == len(everywhere) else _where(found, everywhere)
        lines.append((name, f" ({'; '.join(where)})" if where else "", why))
    return lines


def _where(found: list[tuple[str, str]], everywhere: list[tuple[str, str]]) -> list[str]:
    lines = []
    for name in dict.fromkeys(model for model, _ in found):
        mine = [split for model, split in found if model == name]
        whole = len(mine) == sum(model == name for model, _ in everywhere)
        lines.append(name if whole else f"{name}: {', '.join(mine)}")
    return lines


def counts(models: Sequence[Model], split: str) -> str:
    """Number of images of a split, or the numbers where models differ."""
    found = sorted({model.result.splits[split]["n"] for model in models if split in model.result.splits})
    return " or ".join(f"{n:,}" for n in found)
