"""Which split a scene belongs to: decided by the spec alone, never by the seed of its picture or by its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scenes.rng import stable_hash
from scenes.vocabulary import is_held_out_word

if TYPE_CHECKING:
    from scenes.grammar import SceneSpec

SPLITS = ("train", "dev", "iid", "combo", "binding", "count", "relation", "length", "word", "language")

# One colour per shape, all different: a shape is trained in five colours of six, a colour in all shapes but one.
HELD_OUT_CELLS = frozenset(
    {("circle", "purple"), ("square", "cyan"), ("triangle", "yellow"), ("diamond", "green"), ("cross", "blue")}
)
HELD_OUT_COUNTS = frozenset({(4, "triangle"), (3, "square"), (4, "diamond"), (3, "cross")})
MAX_TRAIN_COUNT = 4
# (first shape, relation, second shape) in canonical form, where the relation is "left of" or "above".
HELD_OUT_RELATIONS = frozenset(
    {
        ("triangle", "left of", "circle"),
        ("square", "above", "triangle"),
        ("diamond", "left of", "square"),
        ("cross", "above", "circle"),
        ("circle", "above", "diamond"),
    }
)
BINDING_PERCENT = 5
IID_PERCENT = 8
DEV_PERCENT = {"single": 12, "pair": 3, "triple": 3, "word": 3}  # of few single scenes more, or there would be three


def split_of(spec: SceneSpec) -> str:
    """The split of a spec: `train`, `dev`, `iid`, the one rule it breaks, or `mixed` (two or more rules; never sampled).

    `dev` is unseen as `iid` is. Settings are chosen by it, so that no reported split is tuned on.
    `language` has the specs of `iid`: there only the captions are held out (style `held_out`).
    """
    if spec.kind == "word":
        broken = ["word"] if is_held_out_word(spec.word) else []
    else:
        broken = _broken_rules(spec)
    if broken:
        return broken[0] if len(broken) == 1 else "mixed"
    for split, percent in (("iid", IID_PERCENT), ("dev", DEV_PERCENT[spec.kind])):
        if stable_hash(split, spec.canonical()) % 100 < percent:
            return split
    return "train"


def spec_split(split: str) -> str:
    """The value of `split_of` that the specs of a split have; ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return "iid" if split == "language" else split


def caption_style(split: str) -> str:
    """The caption style of a split: `held_out` for `language`, `train` for all others."""
    return "held_out" if split == "language" else "train"


def _broken_rules(spec: SceneSpec) -> list[str]:
    spec = spec.ordered()
    groups = spec.groups
    broken = []
    if len(groups) > 2:
        broken.append("length")
    if any(g.count > MAX_TRAIN_COUNT or (g.count, g.shape) in HELD_OUT_COUNTS for g in groups):
        broken.append("count")
    if any((g.shape, g.colour) in HELD_OUT_CELLS for g in groups):
        broken.append("combo")
    if len(groups) == 2:
        if (groups[0].shape, spec.relation, groups[1].shape) in HELD_OUT_RELATIONS:
            broken.append("relation")
        # Unordered: two kinds of object that never meet in training, though each is seen with all others.
        pair = sorted((g.colour, g.shape) for g in groups)
        if stable_hash("binding", pair) % 100 < BINDING_PERCENT:
            broken.append("binding")
    return broken
