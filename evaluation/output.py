"""Writes measured numbers: cards, metrics.json with the pictures beside it, report.html, and the table on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.metrics.card import SCHEMA, Card, versions
from evaluation.metrics.prompt_set import PromptSet
from evaluation.metrics.run_evaluators import Numbers
from evaluation.report import FinishedEvaluation, render, show
from evaluation.sample_store import save_shown
from files import write_json, write_text

NUMBERS = ("low", "high", "real", "chance", "noise", "reconstruction")
NOTES = {
    "all_correct": "Alignment: a parser that never sees the caption reads each image back, and its reading is compared with "
    "what was asked. It knows this data's renderer and nothing else: it says nothing about photographs or beauty.",
    "fd_": "Fréchet distances fall with the number of images at fixed quality: read a value beside its 'real images' "
    "control, what a perfect generator would score, and compare only equal n. Only Inception's may be called FID: "
    "no figure of a paper compares with the others.",
    "fid": "fid uses the published Inception weights with torch-fidelity's resizing. Papers use 50,000 images: compare "
    "only equal n.",
}


@dataclass(frozen=True)
class Subject:
    """What was evaluated: everything in metrics.json and on the cards that is not a measurement."""

    name: str
    family: str
    title: str
    date: str
    commit: str
    facts: dict[str, str]
    data: str
    data_fingerprint: str | None
    seeds: str
    sampling: dict[str, Any]
    model: dict[str, Any]
    cost: dict[str, Any]
    reproduce: str
    notes: list[str] = field(default_factory=list)


@dataclass
class EvaluatedSplit:
    """One split's prompts, the folder of its generated images, their seeds (None: unknown) and the numbers."""

    prompts: PromptSet
    samples: Path
    seeds: list[int] | None
    measured: Numbers


@dataclass
class Sweep:
    """One option's values with the numbers at each: points [{x, nfe, sec_per_image, metric, metric_low, …}]."""

    option: str
    split: str
    n: int
    series: str
    metrics: dict[str, str] = field(default_factory=dict)  # headline metric -> unit, drawn on the page
    points: list[dict[str, Any]] = field(default_factory=list)

    def add(self, value: float | str, measured: Numbers, cost: dict[str, Any]) -> None:
        """Adds the numbers measured with `option=value` and the cost of drawing an image with it."""
        point: dict[str, Any] = {"x": value, **{key: cost[key] for key in ("nfe", "sec_per_image")}}
        for metric, row in measured.metrics.items():
            if row["headline"]:
                self.metrics[metric] = row["unit"]
            point |= {metric: row["value"]} | {f"{metric}_{k}": row[k] for k in ("low", "high", "real") if k in row}
        self.points.append(point)


def write_result(
    out: str | Path, what: Subject, splits: dict[str, EvaluatedSplit], sweeps: Sequence[Sweep] = ()
) -> FinishedEvaluation:
    """Writes cards/, real/ and metrics.json of one model into `out` and returns what metrics.json holds."""
    out = Path(out)
    for split in splits.values():
        for card in cards(what, split):
            card.save(out / "cards")
    data = {
        "schema": SCHEMA,
        **{key: getattr(what, key) for key in ("name", "family", "title", "date", "commit", "facts", "sampling")},
        "model": what.model,
        "cost": what.cost,
        "data": {"name": what.data, "fingerprint": what.data_fingerprint, "seeds": what.seeds},
        "versions": versions(),
        "splits": {name: _split(out, split) for name, split in splits.items()},
        "sweeps": [vars(sweep) for sweep in sweeps],
        "notes": [*what.notes, *_notes(splits)],
        "reproduce": what.reproduce,
    }
    write_json(out / "metrics.json", data)
    return FinishedEvaluation(data, out)


def _split(out: Path, split: EvaluatedSplit) -> dict[str, Any]:
    prompts = split.prompts
    real = save_shown(out / "real", prompts.split, prompts.real)
    return {
        "n": len(prompts),
        "samples": os.path.relpath(split.samples, out),
        "real": os.path.relpath(real, out),
        **{name: getattr(prompts, name) for name in ("captions", "labels")},
        "reference_split": prompts.reference_split,
        "holdout_split": prompts.holdout_split,
        "n_train": None if prompts.train is None else len(prompts.train),
        "seeds": split.seeds,
        **vars(split.measured),
    }


def write_report(out: str | Path, results: Sequence[FinishedEvaluation]) -> Path:
    """Writes report.html on one or many evaluations and returns its path."""
    path = Path(out) / "report.html"
    write_text(path, render(list(results)))
    return path


def cards(what: Subject, split: EvaluatedSplit) -> list[Card]:
    """One card per metric of a split, those that could not be computed included."""
    prompts, measured = split.prompts, split.measured
    common = {
        "split": prompts.split,
        "seeds": what.seeds,
        "data": what.data,
        "data_fingerprint": what.data_fingerprint,
        "sampling": what.sampling,
        "model": what.model,
        "versions": versions(),
    }
    made = []
    for metric, row in measured.metrics.items():
        n = row["protocol"]["images"]
        numbers = {key: row[key] for key in NUMBERS if key in row}
        made.append(
            Card(
                metric=metric,
                value=row["value"],
                n_real=n,
                n_fake=n,
                unit=row["unit"],
                higher_is_better=row["higher_is_better"],
                protocol=row["protocol"],
                **numbers,
                **common,
            )
        )
    n = len(prompts)
    lacking = measured.not_computed.items()
    return made + [Card(metric=m, value=None, not_computed=why, n_real=n, n_fake=n, **common) for m, why in lacking]


def table(result: dict[str, Any]) -> str:
    """The numbers as one plain text table, and what was not computed below it."""
    splits = result["splits"]
    metrics = list(dict.fromkeys(m for split in splits.values() for m in split["metrics"]))
    rows = [["", *[f"{name} (n={split['n']})" for name, split in splits.items()]]]
    rows += [[metric, *[_entry(split["metrics"].get(metric)) for split in splits.values()]] for metric in metrics]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lacking = {metric: why for split in splits.values() for metric, why in split["not_computed"].items()}
    return "\n".join(lines + [f"{metric}: not computed: {why}" for metric, why in lacking.items()])


def _entry(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    controls = [f"{key} {show(row[key], row['unit'])}" for key in ("real", "chance") if key in row]
    return show(row["value"], row["unit"]) + (f" ({', '.join(controls)})" if controls else "")


def _notes(splits: dict[str, EvaluatedSplit]) -> list[str]:
    metrics = {metric for split in splits.values() for metric in split.measured.metrics}
    return [note for start, note in NOTES.items() if any(metric.startswith(start) for metric in metrics)]
