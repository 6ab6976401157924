"""Are samples nearer to training images than unseen real images are? Distances, and the closest pairs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from evaluation.report.embedded_images import encode, image, shown
from evaluation.report.html_parts import Model, charts, figure, folded, split_names
from evaluation.report.svg_charts import colour_class, histogram, show

PAIRS = 24  # on the whole page


def memorisation(models: Sequence[Model]) -> str:
    """One histogram and a row of closest pairs for every model that has them; the first split open."""
    found = [
        (model, split, details)
        for split in split_names(models)
        for model in models
        if (details := model.result.splits.get(split, {}).get("details", {}).get("memorisation"))
    ]
    if not found:
        return ""
    how = (
        "<p>Distance from each sample to its nearest training image, beside that of unseen real images. Samples "
        "clearly left of the unseen images are suspect: look at the pairs.</p>"
    )
    each, bodies = max(3, PAIRS // len(found)), {}
    for split in dict.fromkeys(split for _, split, _ in found):
        here = [one for one in found if one[1] == split]
        drawn = charts([chart for one in here if one[2].get("hist") and (chart := _histogram(*one))])
        pairs = "".join(_pairs(model, split, d["pairs"][:each]) for model, _, d in here if d.get("pairs"))
        bodies[split] = drawn + (f"<h3>Closest pairs ({escape(split)})</h3>{pairs}" if pairs else "")
    (_, first), *rest = bodies.items()
    return how + first + "".join(folded(f"Memorisation, {split}", body) for split, body in rest)


def _histogram(model: Model, split: str, details: dict[str, Any]) -> str:
    names = {"fake": "samples", "holdout": "unseen real images"}
    values = {names[key]: numbers for key, numbers in details["hist"].items() if key in names and len(numbers)}
    if not values:
        return ""
    classes = {"samples": colour_class(model.number), "unseen real images": "real"}
    middle = {name: float(np.median(numbers)) for name, numbers in values.items()}
    summary = "; ".join(f"{name}: median {show(m)} of {len(values[name])}" for name, m in middle.items())
    rows = [
        [name, len(v), *[show(float(q)) for q in np.quantile(v, (0.01, 0.1, 0.5, 0.9))]] for name, v in values.items()
    ]
    title = f"{model.name} ({split})"
    x = "distance to the nearest training image"
    chart = histogram(values, classes, x, f"{title}, {x}: {summary}")
    keys = "".join(f'<li><i class="{classes[name]}"></i>{escape(name)}</li>' for name in values)
    head = ["images", "n", "1 % below", "10 % below", "median", "90 % below"]
    return figure(title, f'<ul class="legend">{keys}</ul>{chart}', head, rows)


def _pairs(model: Model, split: str, pairs: Sequence[dict[str, Any]]) -> str:
    cards = []
    for pair in pairs:
        fake = image(model.result.sample(split, pair["fake"]), f"{model.name}, sample {pair['fake']} of {split}")
        train = _inline(pair.get("train_png"), f"nearest training image, number {pair['train']}")
        distances = [
            f"{name} {show(pair[key])}"
            for key, name in (("feature_distance", "features"), ("pixel_distance", "pixels"))
            if pair.get(key) is not None
        ]
        cards.append(
            f'<div class="pair"><div class="shot">{fake}<small>sample {pair["fake"]:d}</small></div>'
            f'<div class="shot">{train}<small>train {pair["train"]:d}</small></div>'
            f'<small class="both">distance: {escape(", ".join(distances))}</small></div>'
        )
    return f'<p class="who">{model.chip} ({escape(split)})</p><div class="pairs">{"".join(cards)}</div>'


def _inline(address: str | None, alt: str) -> str:
    """A picture that came inside metrics.json; nothing but an embedded picture is taken from there."""
    if not address or not address.startswith("data:image/") or ";base64," not in address:
        return image(None, alt)
    try:
        return shown(encode(base64.b64decode(address.split(",", 1)[1])), alt)
    except ValueError:  # it is not written in base64
        return image(None, alt)
