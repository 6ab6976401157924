"""Puts the newest tallies of accidents and the cost of the guards into docs/reliability.md: python -m benchmarks.reliability."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks import guards
from benchmarks.chaos import stock
from benchmarks.chaos.tally import Tally
from benchmarks.common import REPO, RESULTS, run
from benchmarks.tables import describe, fill

PAGE = "docs/reliability.md"
TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "chaos": lambda result: Tally.of(result).table(),
    "chaos_stock": lambda result: stock.table(result["rows"]),
    "guards": lambda result: guards.table(result["models"]),
}


def main() -> None:
    text = (REPO / PAGE).read_text()
    for name, table in TABLES.items():
        source = RESULTS / f"{name}.json"
        if not source.exists():
            print(f"{name}: no {source.relative_to(REPO)} yet")
            continue
        result = json.loads(source.read_text())
        took = f"{result['minutes']:g} minutes. " if "minutes" in result else ""
        text = fill(text, name, f"\n{table(result)}\n\n{took}{describe(result)}\n\n", PAGE)
        print(f"{name}: filled in from {source.relative_to(REPO)}")
    (REPO / PAGE).write_text(text)


if __name__ == "__main__":
    run(main)
