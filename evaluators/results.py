"""From measured numbers to files: cards, metrics.json and report.html, and the table on the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.card import SCHEMA, Card, versions
from evaluators.measure import Measured
from evaluators.prompts import PromptSet
from evaluators.report import Example, render, show
from evaluators.samples import SampleStore, digest

NOTES = {
    "exact": "Alignment: a parser that never sees the caption reads each image back, and its reading is compared with "
    "what was asked. It knows this data's renderer and nothing else: it says nothing about photographs or beauty.",
    "fd_": "Fréchet distances fall with the number of images at fixed quality: read a value beside its 'real images' "
    "control, what a perfect generator would score, and compare only equal n. fd_efficientnet_lite0 is not FID: "
    "no figure of a paper compares with it.",
    "fid": "fid uses the published Inception weights with torch-fidelity's resizing. Papers use 50,000 images: compare "
    "only equal n.",
}


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated: everything on the page and the cards that is not a measurement."""

    title: str
    facts: dict[str, str]
    data: str
    data_fingerprint: str
    seeds: str
    sampling: dict[str, Any]
    model: dict[str, Any]
    cost: dict[str, str]
    reproduce: str


@dataclass
class SplitResult:
    """One split's prompts, where their samples lie, the samples' seeds and the numbers."""

    prompts: PromptSet
    store: SampleStore
    seeds: list[int]
    measured: Measured


@dataclass
class Sweep:
    """One option's values with the numbers at each: points [{option: x, metric: y, …}]."""

    option: str
    split: str
    n: int
    metrics: dict[str, str] = field(default_factory=dict)  # headline metric -> unit, drawn on the page
    points: list[dict[str, float]] = field(default_factory=list)

    def add(self, value: float, measured: Measured) -> None:
        """Adds the numbers measured with `option=value`."""
        point = {self.option: float(value)}
        for metric, row in measured.metrics.items():
            if row["headline"]:
                self.metrics[metric] = row["unit"]
            point |= {metric: row["value"]} | {f"{metric}_{k}": row[k] for k in ("low", "high", "real") if k in row}
        self.points.append(point)


def write_results(
    out: str | Path, what: Evaluated, splits: dict[str, SplitResult], sweep: Sweep | None, num_examples: int
) -> dict[str, Any]:
    """Writes cards/, metrics.json and report.html into `out` and returns what metrics.json holds."""
    out = Path(out)
    for split in splits.values():
        for card in cards(what, split):
            card.save(out / "cards")
    result = {
        "schema": SCHEMA,
        "title": what.title,
        "facts": what.facts,
        "splits": {
            name: {
                "n": len(split.prompts),
                "metrics": split.measured.metrics,
                "not_computed": split.measured.not_computed,
                "details": split.measured.details,
            }
            for name, split in splits.items()
        },
        "not_computed": {m: why for split in splits.values() for m, why in split.measured.not_computed.items()},
        "sweep": vars(sweep) if sweep else None,
        "cost": what.cost,
        "notes": _notes(splits),
        "reproduce": what.reproduce,
    }
    (out / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    shown = {name: _examples(split, num_examples) for name, split in splits.items()}
    (out / "report.html").write_text(render(result, shown), encoding="utf-8")
    return result


def cards(what: Evaluated, split: SplitResult) -> list[Card]:
    """One card per metric of a split, those that could not be computed included."""
    prompts, measured = split.prompts, split.measured
    common = {
        "split": prompts.split,
        "n_real": len(prompts),
        "n_fake": len(prompts),
        "seeds": what.seeds,
        "data": what.data,
        "data_fingerprint": what.data_fingerprint,
        "sampling": what.sampling,
        "model": what.model,
        "versions": versions(),
    }
    reference = {
        "reference_split": prompts.reference_split,
        "prompts": digest([prompts.captions, prompts.specs, prompts.labels]),
    }
    made = []
    for metric, row in measured.metrics.items():
        numbers = {key: row[key] for key in ("low", "high", "real", "chance") if key in row}
        made.append(
            Card(
                metric=metric,
                value=row["value"],
                unit=row["unit"],
                higher_is_better=row["higher_is_better"],
                protocol=row["protocol"] | reference,
                **numbers,
                **common,
            )
        )
    return made + [Card(metric=m, value=None, not_computed=why, **common) for m, why in measured.not_computed.items()]


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """Flat `eval/<split>/<metric>` numbers with their controls, for a logger."""
    flat = {}
    for name, split in result["splits"].items():
        for metric, row in split["metrics"].items():
            flat[f"eval/{name}/{metric}"] = row["value"]
            flat |= {f"eval/{name}/{metric}_{key}": row[key] for key in ("real", "chance") if key in row}
    return flat


def table(result: dict[str, Any]) -> str:
    """The numbers as one plain text table, and what was not computed below it."""
    names = list(result["splits"])
    metrics = list(dict.fromkeys(m for split in result["splits"].values() for m in split["metrics"]))
    rows = [["", *[f"{name} (n={result['splits'][name]['n']})" for name in names]]]
    for metric in metrics:
        rows.append([metric, *[_entry(result["splits"][name]["metrics"].get(metric)) for name in names]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines + [f"{m}: not computed: {why}" for m, why in result["not_computed"].items()])


def _entry(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    controls = [f"{key} {show(row[key], row['unit'])}" for key in ("real", "chance") if key in row]
    return show(row["value"], row["unit"]) + (f" ({', '.join(controls)})" if controls else "")


def _notes(splits: dict[str, SplitResult]) -> list[str]:
    metrics = {metric for split in splits.values() for metric in split.measured.metrics}
    return [note for start, note in NOTES.items() if any(metric.startswith(start) for metric in metrics)]


def _examples(split: SplitResult, count: int) -> list[Example]:
    indices = list(range(min(count, len(split.prompts))))
    if not indices:
        return []
    images = split.store.read(indices).permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
    wrong = split.measured.details.get("wrong")
    captions = split.prompts.captions
    return [
        Example(
            image_u8=images[i] if images.shape[3] == 3 else images[i].repeat(3, axis=2),
            caption=captions[i] if captions else None,
            seed=split.seeds[i],
            wrong=wrong[i] if wrong else None,
        )
        for i in indices
    ]
