"""Puts finished evaluations on one page, without their models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from evaluation.report import FinishedEvaluation


def compare(places: Sequence[str]) -> list[FinishedEvaluation]:
    """The evaluations in some folders under different names, the first with notes on what differs between them.

    Args:
        places: folders with a metrics.json, or folders of such folders.
    Raises:
        FileNotFoundError: a folder without an evaluation; ValueError: one of another version, or fewer than two.
    """
    results: list[FinishedEvaluation] = []
    for place in places:
        folders = [Path(place)]
        if not (Path(place) / "metrics.json").is_file() and Path(place).is_dir():
            folders = sorted(path.parent for path in Path(place).glob("*/metrics.json")) or folders
        results += [FinishedEvaluation.load(folder) for folder in folders]
    seen: dict[Path, FinishedEvaluation] = {result.folder.resolve(): result for result in results}
    results = distinct(list(seen.values()))
    if len(results) < 2:
        raise ValueError(f"compare={list(places)}: a comparison needs two evaluations or more, and this is one")
    notes = [*results[0].data.get("notes", []), *differences(results)]
    return [replace(results[0], data=results[0].data | {"notes": notes}), *results[1:]]


def distinct(results: Sequence[FinishedEvaluation]) -> list[FinishedEvaluation]:
    """The same results under names that are all different: a repeated one gets its folder's name or a number."""
    taken: set[str] = set()
    found = []
    for result in results:
        name = result.name
        for chosen in (name, f"{name} ({result.folder.name})", *(f"{name} {i}" for i in range(2, len(results) + 2))):
            if chosen not in taken:
                break
        taken.add(chosen)
        found.append(replace(result, data=result.data | {"name": chosen}))
    return found


def differences(results: Sequence[FinishedEvaluation]) -> list[str]:
    """Why values of one metric stand in different columns: a note for each pair of evaluations and set of differences."""
    grouped: dict[tuple[str, str, str, str], list[str]] = {}
    for a, b in combinations(results, 2):
        for split in a.splits:
            for metric, row in a.splits[split]["metrics"].items():
                other = b.splits.get(split, {}).get("metrics", {}).get(metric)
                if other is not None and row["protocol_id"] != other["protocol_id"]:
                    what = _difference(row["protocol"], other["protocol"])
                    grouped.setdefault((split, a.name, b.name, what), []).append(metric)
    return [
        f"{split}: {', '.join(metrics)} of {one} and of {other} are not comparable: {what}"
        for (split, one, other, what), metrics in grouped.items()
    ]


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return "; ".join(f"{key} {_brief(one.get(key))} and {_brief(other.get(key))}" for key in keys)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
