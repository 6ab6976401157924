"""Fixed-seed samples: the same prompts for every model, the data's own image on top; and the failures, by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from evaluation.report.embedded_images import LARGEST, image, load
from evaluation.report.html_parts import Model, folded, split_names

BUDGET = 1_600_000  # characters of the page that grids may take
COUNTS = (24, 16, 12, 8, 6, 4, 2)
OPEN = 8  # prompts of a grid that need no opening
FAILURES = 8


@dataclass(frozen=True)
class SameQuestions:
    """Models of a split that were asked for the same."""

    split: str
    models: list[Model]

    @property
    def lead(self) -> Model:
        """A model that knows the prompts, where there is one."""
        return next((m for m in self.models if asked(m, self.split)), self.models[0])

    @property
    def n(self) -> int:
        return min(model.result.splits[self.split]["n"] for model in self.models)


def asked(model: Model, split: str) -> list[Any] | None:
    """Captions, else labels, else None for a model that is asked for nothing."""
    entry = model.result.splits[split]
    return entry.get("captions") or entry.get("labels")


def blocks(models: Sequence[Model]) -> list[SameQuestions]:
    """Models of one split side by side where their prompts are equal; those without prompts join the first."""
    found: list[SameQuestions] = []
    for split in split_names(models):
        here = [model for model in models if split in model.result.splits and has_pictures(model, split)]
        groups: dict[str, list[Model]] = {}
        # Those that are asked for something come first, so that the others find a group of the same data.
        for model in sorted(here, key=lambda m: asked(m, split) is None):
            prompts, data = asked(model, split), _data(model)
            same = next((key for key, group in groups.items() if any(_data(m) == data for m in group)), data)
            captions = model.result.splits[split].get("captions")
            of_classes = "" if captions else data  # equal captions are equal prompts whatever the data
            groups.setdefault(f"{of_classes}|{prompts[:OPEN]}" if prompts else same, []).append(model)
        found += [SameQuestions(split, sorted(group, key=lambda m: m.number)) for group in groups.values()]
    return found


def _data(model: Model) -> str:
    return str((model.result.data.get("data") or {}).get("name"))


def has_pictures(model: Model, split: str) -> bool:
    return model.result.sample(split, 0) is not None


def samples(models: Sequence[Model]) -> str:
    """One grid per split and set of prompts."""
    every = blocks(models)
    if not every:
        return ""
    count = affordable(every)
    intro = (
        "<p>The first prompts of each split, not chosen. Models in one grid were asked for the same; a seed under the "
        "prompt is that of all of them. The top picture is the data's own image.</p>"
    )
    several = {b.split for b in every if sum(a.split == b.split for a in every) > 1}
    return intro + "".join(_grid(block, min(count, block.n), block.split in several) for block in every)


def affordable(every: Sequence[SameQuestions]) -> int:
    """The largest number of prompts with which all grids stay within the budget."""
    each = 0
    for block in every:
        for model in block.models:
            each += _length(model.result.sample(block.split, 0))
        each += _length(block.lead.result.real(block.split, 0))
    return next((count for count in COUNTS if count * each <= BUDGET), COUNTS[-1])


def _length(path: Path | None) -> int:
    """Characters of the page that a picture takes."""
    picture = load(path) if path is not None else None
    return len(picture.address) if picture else 0


def _grid(block: SameQuestions, count: int, named: bool) -> str:
    cards = [_card(block, index) for index in range(count)]
    rest = folded(f"{count - OPEN} more prompts of {block.split}", _cards(cards[OPEN:])) if count > OPEN else ""
    names = f": {', '.join(model.name for model in block.models)}" if named else ""
    return f"<h3>{escape(block.split)}{escape(names)}</h3>{_cards(cards[:OPEN])}{rest}"


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(cards)}</div>'


def _card(block: SameQuestions, index: int) -> str:
    lead, split = block.lead, block.split
    prompts = asked(lead, split)
    prompt = describe(prompts[index] if prompts else None)
    seeds = {_seed(model, split, index) for model in block.models}
    rows = []
    if any(m.result.real(split, 0) for m in block.models):
        real = next((path for m in (lead, *block.models) if (path := m.result.real(split, index))), None)
        rows.append(f'<div class="shot">{image(real, f"real image for: {prompt}")}<small>real</small></div>')
    for model in block.models:
        own = "" if asked(model, split) or not prompts else ", not asked"
        own += "" if len(seeds) == 1 else f", seed {escape(str(_seed(model, split, index)))}"
        shown = image(model.result.sample(split, index), f"{model.name}, prompt: {prompt}")
        rows.append(f'<div class="shot">{shown}<small>{model.chip}{own}</small>{verdict(model, split, index)}</div>')
    seed = f"<small>seed {escape(str(seeds.pop()))}</small>" if len(seeds) == 1 and seeds != {"unknown"} else ""
    text = f'<div class="asked">{escape(prompt)}{seed}</div>'
    return f'<div class="card" style="grid-row:span {len(rows) + 1}">{"".join(rows)}{text}</div>'


def describe(prompt: Any) -> str:
    """A caption as it is, a class by its number."""
    return "no prompt" if prompt is None else prompt if isinstance(prompt, str) else f"class {prompt}"


def _seed(model: Model, split: str, index: int) -> Any:
    seeds = model.result.splits[split].get("seeds") or []
    return seeds[index] if index < len(seeds) else "unknown"


def verdict(model: Model, split: str, index: int) -> str:
    """What is wrong with one image, where it was judged."""
    wrong = model.result.splits[split].get("details", {}).get("wrong")
    if not wrong or index >= len(wrong):
        return ""
    if not wrong[index]:
        return '<small class="yes">✓ all right</small>'
    return f'<small class="no">✗ {escape(", ".join(wrong[index]))}</small>'


def failures(models: Sequence[Model]) -> str:
    """The lowest-scoring images of every model that was judged image by image."""
    rows = []
    for model in models:
        worst = lowest(model)
        if worst:
            cards = "".join(_failure(model, split, index) for split, index in worst)
            rows.append(f'<p class="who">{model.chip}</p><div class="grid">{cards}</div>')
    if not rows:
        return ""
    rule = (
        f"<p>Chosen by rule: the {FAILURES} images with the lowest mean over their skills, all splits together; of "
        "equal ones those of the first split and the first prompts.</p>"
    )
    return "<h3>Failures</h3>" + rule + "".join(rows)


def lowest(model: Model) -> list[tuple[str, int]]:
    """(split, index) of the lowest-scoring images that have anything wrong and whose picture is there."""
    found = []
    for order, (split, entry) in enumerate(model.result.splits.items()):
        for index, scores in enumerate(entry.get("details", {}).get("scores") or []):
            if scores and (mean := sum(scores.values()) / len(scores)) < 1:
                found.append((mean, order, index, split))
    ranked = [(split, index) for _, _, index, split in sorted(found)]
    return [(split, index) for split, index in ranked if model.result.sample(split, index)][:FAILURES]


def _failure(model: Model, split: str, index: int) -> str:
    prompts = asked(model, split)
    prompt = describe(prompts[index] if prompts else None)
    shown = image(model.result.sample(split, index), f"{model.name}, failure, prompt: {prompt}")
    place = f"<small>{escape(split)} {index}, seed {escape(str(_seed(model, split, index)))}</small>"
    return (
        f'<div class="card" style="grid-row:span 2"><div class="shot">{shown}{verdict(model, split, index)}</div>'
        f'<div class="asked">{escape(prompt)}{place}</div></div>'
    )


def reduced(models: Sequence[Model]) -> str:
    """A note where images are shown smaller than they are."""
    for block in blocks(models):
        path = block.models[0].result.sample(block.split, 0)
        if path and (picture := load(path)) and picture.reduced:
            return f"<p>Images larger than {LARGEST} pixels are shown reduced; the files beside this page are not.</p>"
    return ""
