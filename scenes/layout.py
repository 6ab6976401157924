"""Where things stand, in units of the picture's side: a function of spec and seed, never of the resolution."""

from __future__ import annotations

from dataclasses import dataclass

from scenes.font import ROWS, word_columns
from scenes.grammar import SceneSpec
from scenes.rng import Rng

SIDES = {"small": (0.14, 0.17), "large": (0.26, 0.31)}
BORDER = 1 / 32  # one pixel at the smallest image size
GAP = 2 / 32  # between any two boxes
RELATION_GAP = 2.5 / 32  # across the line that separates two related groups
CELL = (1.2 / 32, 2.4 / 32)  # of a letter: at 32 pixels a stroke is at least one pixel wide
_TRIES, _RESTARTS = 30, 400


@dataclass(frozen=True)
class ObjectBox:
    """An object or a letter of a picture: centre, width and height of its box in [0, 1]; y grows downwards."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    width: float
    height: float
    group: int = 0


def layout(spec: SceneSpec, seed: int) -> list[ObjectBox]:
    """The boxes of all objects (or of all letters of a word, then `shape` is the letter and `size` is "letter")."""
    rng = Rng("layout", seed)
    if spec.kind == "word":
        return _place_word(rng, spec.word, spec.word_colour)
    for _ in range(_RESTARTS):
        boxes = _place_groups(rng, spec)
        if boxes is not None:
            return boxes
    raise ValueError(f"no room in a picture for this scene: {spec.canonical()}")


def _place_word(rng: Rng, word: str, colour: str) -> list[ObjectBox]:
    columns = word_columns(len(word))
    cell = rng.uniform(CELL[0], min(CELL[1], (1 - 2 * BORDER) / columns))
    left = rng.uniform(BORDER, 1 - BORDER - columns * cell)
    top = rng.uniform(BORDER, 1 - BORDER - ROWS * cell)
    return [
        ObjectBox(colour, c, "letter", left + (6 * i + 2.5) * cell, top + ROWS / 2 * cell, 5 * cell, ROWS * cell)
        for i, c in enumerate(word)
    ]


def _regions(rng: Rng, spec: SceneSpec) -> list[tuple[float, float, float, float]]:
    """The part (x0, y0, x1, y1) of the picture that belongs to each group: related groups are cut apart by a line."""
    low, high = BORDER, 1 - BORDER
    cut = rng.uniform(0.4, 0.6)
    before, after = cut - RELATION_GAP / 2, cut + RELATION_GAP / 2
    if spec.relation is None:
        return [(low, low, high, high)] * len(spec.groups)
    if spec.relation in ("left of", "right of"):
        regions = [(low, low, before, high), (after, low, high, high)]
    else:
        regions = [(low, low, high, before), (low, after, high, high)]
    return regions if spec.relation in ("left of", "above") else regions[::-1]


def _place_groups(rng: Rng, spec: SceneSpec) -> list[ObjectBox] | None:
    """One attempt to place all objects, the largest first; None when one finds no room."""
    regions = _regions(rng, spec)
    todo = []
    for i, g in enumerate(spec.groups):
        todo += [(rng.uniform(*SIDES[g.size]), i) for _ in range(g.count)]
    todo.sort(key=lambda item: -item[0])
    boxes: list[ObjectBox] = []
    for side, i in todo:
        x0, y0, x1, y1 = regions[i]
        half = side / 2
        for _ in range(_TRIES):
            x, y = rng.uniform(x0 + half, x1 - half), rng.uniform(y0 + half, y1 - half)
            if all(max(abs(x - b.x), abs(y - b.y)) - (side + b.width) / 2 >= GAP for b in boxes):
                break
        else:
            return None
        g = spec.groups[i]
        boxes.append(ObjectBox(g.colour, g.shape, g.size, x, y, side, side, i))
    return boxes
