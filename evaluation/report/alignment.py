"""Does the image show what was asked: skills, the price of novelty, confusions, and single verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from evaluation.report.embedded_images import image
from evaluation.report.html_parts import (
    Model,
    charts,
    figure,
    folded,
    legend,
    metric,
    metric_names,
    span,
    split_names,
    table,
)
from evaluation.report.sample_pictures import SameQuestions, asked, blocks, describe
from evaluation.report.svg_charts import Bar, bars, show

BASIC = ("count", "colour", "shape", "size", "relation", "spelling")  # not made of one another
CONTROLS = {
    "real": "the same reader on real images (oracle)",
    "chance": "chance: other prompts",
    "reconstruction": "the same reader on encoded and decoded real images",
}
EXAMPLES = 3  # right and wrong ones each


def skills(models: Sequence[Model]) -> str:
    """Bars per skill and split, with Wilson intervals, the oracle's level and chance."""
    drawn, judged = [], {}
    for split in split_names(models):
        names = [n for n in metric_names(models, split, "alignment") if _share(models, split, n)]
        for group in _comparable(models, split, names):
            drawn.append(_skill_chart(group, split, names))
            judged |= {model.number: model for model in group}
    if not drawn:
        return ""
    there = {k for m in models for s in m.result.splits.values() for row in s.get("metrics", {}).values() for k in row}
    others = [(f"level {name}", text) for name, text in CONTROLS.items() if name in there]
    return legend([judged[n] for n in sorted(judged)], *others) + charts(drawn)


def _share(models: Sequence[Model], split: str, name: str) -> bool:
    return any((row := metric(m, split, name)) is not None and row.get("unit") == "%" for m in models)


def _comparable(models: Sequence[Model], split: str, names: Sequence[str]) -> list[list[Model]]:
    """Models with the same protocol in the first of the metrics that they have."""
    groups: dict[Any, list[Model]] = {}
    for model in models:
        rows = [row for name in names if (row := metric(model, split, name)) is not None]
        if rows:
            groups.setdefault(rows[0].get("protocol_id"), []).append(model)
    return list(groups.values())


def _skill_chart(models: Sequence[Model], split: str, names: Sequence[str]) -> str:
    found = {name: [(m, row) for m in models if (row := metric(m, split, name)) is not None] for name in names}
    found = {name: rows for name, rows in found.items() if rows}
    groups = {name: [bar(model, row) for model, row in rows] for name, rows in found.items()}
    summary = "; ".join(f"{n}: " + ", ".join(f"{m.name} {r['value']:.1%}" for m, r in rows) for n, rows in found.items())
    behind = [[name, model.name, *_numbers(row)] for name, rows in found.items() for model, row in rows]
    head = ["skill", "model", "share", "95 % interval", "n", "real images", "chance", "reconstructions"]
    title = split if len(models) > 1 else f"{split}: {models[0].name}"
    return figure(title, bars(groups, f"{split}: {summary}"), head, behind)


def bar(model: Model, row: dict[str, Any]) -> Bar:
    """A share with its interval and controls as a bar of the model."""
    return Bar(row["value"], model.number, **{k: row.get(k) for k in ("low", "high", *CONTROLS)})


def _numbers(row: dict[str, Any]) -> list[str]:
    ends = span(row["low"], row["high"], "%") if row.get("low") is not None else "–"
    controls = [show(row[k], "%") if row.get(k) is not None else "–" for k in CONTROLS]
    return [show(row["value"], "%"), ends, f"{row.get('n', '–')}", *controls]


def gaps(models: Sequence[Model]) -> str:
    """The main share on the first split against each other one: what novelty costs."""
    splits = split_names(models)
    if len(splits) < 2:
        return ""
    first, rows = splits[0], []
    name = next((n for n in metric_names(models, first, "alignment") if _share(models, first, n)), None)
    if name is None:
        return ""
    found = {s: [(m, row) for m in models if (row := metric(m, s, name)) is not None] for s in splits}
    for split in splits[1:]:
        for model, row in found[split]:
            base = metric(model, first, name)
            if base is not None:
                gap, low, high = difference(base, row)
                shares = [show(base["value"], "%"), show(row["value"], "%")]
                rows.append([split, model.name, *shares, points(gap), f"{points(low)} to {points(high)}"])
    if not rows:
        return ""
    groups = {split: [bar(m, row) for m, row in pairs] for split, pairs in found.items() if pairs}
    summary = "; ".join(f"{r[0]}: {r[1]} {r[3]}, {r[4]} points from {first}" for r in rows)
    head = ["split", "model", f"{name} on {first}", f"{name} here", "gap in points", "95 % interval"]
    chart = figure(f"{name} by split", bars(groups, f"{name} by split: {summary}"), (), ())
    gap_table = table([escape(h) for h in head], [[escape(str(c)) for c in row] for row in rows], label="gaps")
    return f'<h3>Seen against held out</h3><div class="beside">{chart}{gap_table}</div>'


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float, float]:
    """b - a with its 95 % interval from the intervals of both; NaN where one has none.

    Source: Newcombe 1998, method 10.
    """
    gap = b["value"] - a["value"]
    if any(row.get(end) is None for row in (a, b) for end in ("low", "high")):
        return gap, math.nan, math.nan
    down = math.hypot(b["value"] - b["low"], a["high"] - a["value"])
    up = math.hypot(b["high"] - b["value"], a["value"] - a["low"])
    return gap, gap - down, gap + up


def points(share: float) -> str:
    """A difference of shares in percentage points with its sign."""
    return "–" if math.isnan(share) else f"{100 * share:+.1f}"


def product(models: Sequence[Model]) -> str:
    """The share that is right in everything, against what independent skills would give."""
    rows = []
    for split in split_names(models):
        for model in models:
            scores = model.result.splits.get(split, {}).get("details", {}).get("scores") or []
            if any("all_correct" in one for one in scores):
                predicted, measured = product_of_skills(scores)
                shares = [show(predicted, "%"), show(measured, "%")]
                rows.append([escape(split), model.chip, *shares, points(measured - predicted)])
    if not rows:
        return ""
    how = (
        "<p>Were the skills independent, the share right in all of them would be the product of their shares. A "
        "measured share above it means that the same images fail in several skills at once.</p>"
    )
    head = ["split", "model", "product of skills", "measured all-correct", "difference in points"]
    return "<h3>Product of skills</h3>" + how + table(head, rows, label="product of skills")


def product_of_skills(scores: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Predicted and measured share of images with everything right, prompts of each kind by themselves.

    Source: Okawa et al. 2023, section 4.
    """
    kinds: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for one in scores:
        kinds.setdefault(tuple(s for s in BASIC if s in one), []).append(one)
    predicted = 0.0
    for names, group in kinds.items():
        predicted += len(group) * math.prod(sum(one[n] == 1 for one in group) / len(group) for n in names)
    return predicted / len(scores), sum(one.get("all_correct", 0.0) for one in scores) / len(scores)


def confusions(models: Sequence[Model]) -> str:
    """Asked against found, for everything the evaluators counted so; the first split open."""
    by_split: dict[str, list[str]] = {}
    for split in split_names(models):
        for model in models:
            details = model.result.splits.get(split, {}).get("details", {})
            for name, found in details.items():
                if name.endswith("_confusion") and (drawn := _confusion(found)):
                    title = f"{name.removesuffix('_confusion').replace('_', ' ')}: {model.name}"
                    by_split.setdefault(split, []).append(
                        f"<figure><figcaption>{escape(title)} ({escape(split)})</figcaption>{drawn}</figure>"
                    )
    if not by_split:
        return ""
    (_, first), *rest = by_split.items()
    others = "".join(folded(f"Asked and found, {split}", charts(drawn)) for split, drawn in rest)
    how = "<p>Rows are what was asked for, columns what was found; outlined cells are right.</p>"
    return "<h3>Asked and found</h3>" + how + charts(first) + others


def _confusion(found: Any) -> str:
    """A table of counts: a square list of lists, or {labels, counts} where names are known."""
    counts = np.asarray(found["counts"] if isinstance(found, dict) else found)
    if counts.ndim != 2 or not counts.any():
        return ""
    last = counts.shape[1] - 1
    labels = found.get("labels") if isinstance(found, dict) else None
    names = [str(x) for x in labels] if labels else [f"{i}" if i < last else f"{i}+" for i in range(last + 1)]
    rows = []
    for i, row in enumerate(counts):
        if row.any():
            cells = "".join(
                f'<td{" class=same" if i == j else ""} style="--share:{share:.0%}">{row[j] or ""}</td>'
                for j, share in enumerate(row / row.sum())
            )
            rows.append(f'<tr><th scope="row">{escape(names[i])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    opening = '<div class="scroll" tabindex="0"><table class="confusion"><thead><tr><th scope="col">asked \\ found</th>'
    return f"{opening}{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def examples(models: Sequence[Model]) -> str:
    """Image, caption and verdict of a few prompts, chosen by rule, every model beside the others."""
    tables = []
    for block in blocks(models):
        judged = [m for m in block.models if _scores(m, block.split)]
        if judged:
            tables.append((block.split, _examples(SameQuestions(block.split, judged))))
    if not tables:
        return ""
    rule = (
        f"<p>Chosen by rule: the first {EXAMPLES} prompts that some model gets right, and the first {EXAMPLES} that "
        "some model gets wrong.</p>"
    )
    others = "".join(folded(f"Verdicts, {split}", one) for split, one in tables[1:])
    return f"<h3>Verdicts image by image ({escape(tables[0][0])})</h3>" + rule + tables[0][1] + others


def _scores(model: Model, split: str) -> list[dict[str, float]]:
    return model.result.splits[split].get("details", {}).get("scores") or []


def _examples(block: SameQuestions) -> str:
    split, models = block.split, block.models
    n = min(len(_scores(model, split)) for model in models)
    right = [i for i in range(n) if any(_scores(m, split)[i].get("all_correct") == 1 for m in models)][:EXAMPLES]
    wrong = [i for i in range(n) if any(_scores(m, split)[i].get("all_correct") != 1 for m in models)][:EXAMPLES]
    prompts = asked(block.lead, split)
    rows = []
    for index in dict.fromkeys([*right, *wrong]):
        prompt = describe(prompts[index] if prompts else None)
        rows.append([escape(prompt), *[_judged(model, split, index, prompt) for model in models]])
    return table(["caption", *[model.chip for model in models]], rows, "verdicts", label=f"verdicts on {split}")


def _judged(model: Model, split: str, index: int, prompt: str) -> str:
    shown = image(model.result.sample(split, index), f"{model.name}, prompt: {prompt}")
    return f'<td class="judged">{shown}{_chips(model, split, index)}</td>'


def _chips(model: Model, split: str, index: int) -> str:
    """Every skill of one image: right ones plain, wrong ones marked with the share that is right."""
    chips = []
    for skill, value in _scores(model, split)[index].items():
        if skill != "all_correct":
            share = f" {value:.0%}" if 0 < value < 1 else ""
            kind, sign = ("yes", "✓") if value == 1 else ("no", "✗")
            chips.append(f'<span class="{kind}">{sign} {escape(skill)}{share}</span>')
    read = model.result.splits[split].get("details", {}).get("read") or []
    seen = f"<small>read as: {escape(str(read[index]))}</small>" if index < len(read) else ""
    return f'<div class="chips">{"".join(chips)}{seen}</div>'
