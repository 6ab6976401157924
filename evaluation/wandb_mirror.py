"""A finished evaluation on W&B: numbers, tables, pictures, curves and the page, under the same keys for every family.

eval/<split>/<metric>         the number; with _low, _high, _real, _chance, _noise beside it
eval/<split>/skills           table of all numbers of the split
eval/<split>/images           table of the first images: prompt, seed, picture, real picture, score of every skill
eval/<split>/samples          the first samples as one picture, real images above
eval/sweep/<option>           table of a sweep's points
eval/sweep/<option>/<metric>  its curve
eval/cost/<what>              parameters, seconds an image, …
eval/report                   the page itself
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from PIL import Image

from evaluation.report import FinishedEvaluation
from runtime.wandb import WandbLogger

NUMBERS = ("low", "high", "real", "chance", "noise", "reconstruction")
MAX_ROWS = 128  # images in a table
SHEET, CELL, GAP = 16, 128, 4  # pictures and pixels of a sheet of samples


def mirror(result: FinishedEvaluation, page: str | None = None, project: str | None = None) -> None:
    """Sends one evaluation to W&B, offline without a key; a failure there is reported and stops nothing.

    Args:
        result: of one model.
        page: the report as text, which is sent along.
        project: on W&B; else WANDB_PROJECT, else the family's name, which is the project that its training logs to.
    """
    data = result.data
    config = {"family": data.get("family"), "sampling": data.get("sampling"), "facts": data.get("facts")}
    logger = WandbLogger(
        project=project or os.environ.get("WANDB_PROJECT") or str(data["family"]),
        dir=str(result.folder),
        id=identity(data),
        name=f"evaluate {data['name']}",
        job_type="evaluate",
        tags=["evaluation", str(data["family"])],
        config=config,
    )
    step = int((data.get("model") or {}).get("step") or 0)
    logger.log_metrics(scalars(result), step=step)
    for build in (*(_tables(result, split) for split in result.splits), _curves(result), _page(page)):
        logger.log_built(build, step=step)
    logger.finalize("success")


def identity(data: dict[str, Any]) -> str:
    """Twelve hex digits of what was evaluated and how it was sampled: evaluating again continues the same run."""
    known = json.dumps([data["name"], data.get("model"), data.get("sampling")], sort_keys=True, default=str)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def scalars(result: FinishedEvaluation) -> dict[str, float]:
    """Every number with its interval and controls, and what can be counted of the cost."""
    found: dict[str, float] = {}
    for split, entry in result.splits.items():
        for metric, row in entry["metrics"].items():
            found[f"eval/{split}/{metric}"] = row["value"]
            found |= {f"eval/{split}/{metric}_{k}": row[k] for k in NUMBERS if row.get(k) is not None}
    cost = result.data.get("cost") or {}
    return found | {f"eval/cost/{k}": v for k, v in cost.items() if isinstance(v, (int, float))}


Build = Callable[[Any], dict[str, Any]]


def _tables(result: FinishedEvaluation, split: str) -> Build:
    entry = result.splits[split]

    def build(wandb: Any) -> dict[str, Any]:
        columns = ["metric", "section", "value", *NUMBERS, "n", "unit", "higher_is_better", "protocol_id"]
        rows = [[name, *[row.get(c) for c in columns[1:]]] for name, row in entry["metrics"].items()]
        found: dict[str, Any] = {}
        if rows:
            found[f"eval/{split}/skills"] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        if result.sample(split, 0):
            found[f"eval/{split}/images"] = _images(wandb, result, split)
            found[f"eval/{split}/samples"] = wandb.Image(sheet(result, split))
        return found

    return build


def _images(wandb: Any, result: FinishedEvaluation, split: str) -> Any:
    """One row per image; a skill that does not apply to a prompt is empty."""
    entry = result.splits[split]
    details = entry.get("details") or {}
    scores, wrong = details.get("scores") or [], details.get("wrong") or []
    skills = list(dict.fromkeys(skill for one in scores for skill in one))
    prompts, seeds = entry.get("captions") or entry.get("labels"), entry.get("seeds") or []
    table = wandb.Table(columns=["index", "prompt", "seed", "image", "real", "wrong", *skills])
    for i in range(min(entry["n"], MAX_ROWS)):
        if (path := result.sample(split, i)) is None:
            continue
        real = result.real(split, i)
        table.add_data(
            i,
            str(prompts[i]) if prompts else None,
            seeds[i] if i < len(seeds) else None,
            wandb.Image(str(path)),
            wandb.Image(str(real)) if real else None,
            ", ".join(wrong[i]) if i < len(wrong) else None,
            *[scores[i].get(skill) if i < len(scores) else None for skill in skills],
        )
    return table


def sheet(result: FinishedEvaluation, split: str) -> Image.Image:
    """The first samples as one RGB picture, eight a row, each row under its real images where those are there."""
    count = next((i for i in range(SHEET) if result.sample(split, i) is None), SHEET)
    lines = [range(start, min(start + 8, count)) for start in range(0, count, 8)]
    rows = [
        [path(split, i) for i in line]
        for line in lines
        for path in (result.real, result.sample)
        if path(split, line[0])
    ]
    side = CELL + GAP
    picture = Image.new("RGB", (side * min(8, count) + GAP, side * len(rows) + GAP), "white")
    for y, row in enumerate(rows):
        for x, path in enumerate(row):
            if path is not None:
                with Image.open(path) as one:
                    picture.paste(_cell(one.convert("RGB")), (GAP + side * x, GAP + side * y))
    return picture


def _cell(picture: Image.Image) -> Image.Image:
    """Enlarged by a whole factor, so that pixels stay square, or reduced."""
    factor = CELL // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return picture


def _curves(result: FinishedEvaluation) -> Build:
    def build(wandb: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        sweeps = result.data.get("sweeps") or []
        for option in dict.fromkeys(sweep["option"] for sweep in sweeps):
            same = [sweep for sweep in sweeps if sweep["option"] == option and sweep["points"]]
            values = list(dict.fromkeys(key for sweep in same for point in sweep["points"] for key in point))
            rows = [
                [sweep["split"], sweep.get("series") or option, sweep["n"], *[point.get(key) for key in values]]
                for sweep in same
                for point in sweep["points"]
            ]
            columns = ["split", "series", "n", *values]
            found[f"eval/sweep/{option}"] = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
            for metric in dict.fromkeys(name for sweep in same for name in sweep["metrics"]):
                # A chart takes its table along, so each has one of its own.
                table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
                title = f"{metric} against {option.replace('_', ' ')}"
                found[f"eval/sweep/{option}/{metric}"] = wandb.plot.line(table, "x", metric, "series", title)
        return found

    return build


def _page(page: str | None) -> Build:
    return lambda wandb: {"eval/report": wandb.Html(page, inject=False, data_is_not_path=True)} if page else {}
