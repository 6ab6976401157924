"""The grammar of scenes: what a scene can contain, the presets, and how a spec is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from scenes.rng import Rng
from scenes.splits import MAX_TRAIN_COUNT, spec_split, split_of
from scenes.vocabulary import LETTERS, WORDS

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 90, 230),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "cyan": (40, 200, 210),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = ("small", "large")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(INVERSE)
NUM_GROUPS = {"single": 1, "pair": 2, "triple": 3, "quadruple": 4, "quintuple": 5, "word": 0}  # of each kind of scene; no split has more than three
MAX_COUNT = 6
MAX_OBJECTS = 5  # of a scene with several groups


@dataclass(frozen=True)
class Group:
    """Equal objects of a scene: "two small red circles"."""

    count: int
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{self.count} {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class SceneSpec:
    """The ground truth of a scene: groups of objects and at most one relation between two groups, or one word."""

    kind: str
    groups: tuple[Group, ...] = ()
    relation: str | None = None
    word: str | None = None
    word_colour: str | None = None

    def __post_init__(self) -> None:
        num_groups = NUM_GROUPS.get(self.kind)
        if num_groups is None:
            raise ValueError(f"unknown kind of scene {self.kind!r}; choose one of {', '.join(NUM_GROUPS)}")
        if len(self.groups) != num_groups:
            raise ValueError(f"a {self.kind!r} scene has {num_groups} groups, not {len(self.groups)}")
        for g in self.groups:
            known = g.size in SIZES and g.colour in COLOURS and g.shape in SHAPES and type(g.count) is int
            if not known or not 1 <= g.count <= MAX_COUNT:
                raise ValueError(f"not a group of this grammar: {g}")
        if self.relation is not None and (self.kind != "pair" or self.relation not in INVERSE):
            raise ValueError(f"relation {self.relation!r} in a {self.kind!r} scene: pairs only, {', '.join(RELATIONS)}")
        if self.kind == "word":
            word = self.word or ""
            if not (1 <= len(word) <= 4 and word.isascii() and word.isalpha() and word.isupper()):
                raise ValueError(f"a word is one to four capital letters A-Z, not {self.word!r}")
            if self.word_colour not in COLOURS:
                raise ValueError(f"unknown colour {self.word_colour!r}; choose one of {', '.join(COLOURS)}")

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain, JSON-ready values."""
        d = asdict(self)
        d["groups"] = list(d["groups"])
        return d

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> SceneSpec:
        """The inverse of `to_dict`."""
        return cls(**{**d, "groups": tuple(Group(**g) for g in d["groups"])})

    def ordered(self) -> SceneSpec:
        """The same scene told in its canonical order: relation "left of" or "above", unrelated groups sorted."""
        if self.relation in ("right of", "below"):
            return SceneSpec(self.kind, self.groups[::-1], INVERSE[self.relation])
        if self.relation is None and len(self.groups) > 1:
            return SceneSpec(self.kind, tuple(sorted(self.groups, key=str)))
        return self

    def canonical(self) -> str:
        """One string per scene: "A left of B" and "B right of A" give the same."""
        if self.kind == "word":
            return f"word|{self.word}|{self.word_colour}"
        s = self.ordered()
        return f"{s.kind}|{s.relation or 'and'}|" + "|".join(map(str, s.groups))


@dataclass(frozen=True)
class Preset:
    """What `sample_spec` draws: shapes, weights of kinds, greatest counts, many captions or few."""

    name: str
    shapes: tuple[str, ...]
    kind_weights: tuple[tuple[str, int], ...]
    max_pair_count: int
    unrelated_percent: int
    max_count: int
    rich_captions: bool
    min_image_size: int


_WEIGHTS = (("single", 2), ("pair", 3), ("word", 1))
PRESETS: dict[str, Preset] = {
    "scenes": Preset("scenes", SHAPES, _WEIGHTS, 4, 25, MAX_COUNT, rich_captions=True, min_image_size=64),
    # Few words: their many edges weigh more in a pixel loss than all objects, and they are not learned within minutes.
    "scenes_simple": Preset(
        "scenes_simple", SHAPES[:3], (("single", 4), ("pair", 6), ("word", 1)), 1, 0, 4, rich_captions=False, min_image_size=32
    ),
}
_SPLIT_KINDS = {
    "train": ("single", "pair", "word"),
    "dev": ("single", "pair", "word"),
    "iid": ("single", "pair", "word"),
    "combo": ("single", "pair"),
    "binding": ("pair",),
    "count": ("single",),
    "relation": ("pair",),
    "length": ("triple",),
    "word": ("word",),
}


def get_preset(preset: str) -> Preset:
    """The preset of that name; ValueError when there is none."""
    if preset not in PRESETS:
        raise ValueError(f"unknown scenes preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[preset]


def sample_spec(seed: int, preset: str, split: str = "train") -> SceneSpec:
    """The spec that a seed draws from a split of a preset: the kind first, then contents until the split is right."""
    p = get_preset(preset)
    wanted = spec_split(split)
    if wanted == "length" and p.max_pair_count == 1:
        raise ValueError(f"preset {preset!r} has no split 'length': its scenes have at most two objects; use 'scenes'")
    rng = Rng("spec", preset, split, seed)
    kinds = _SPLIT_KINDS[wanted]
    kind = rng.choice([k for k, weight in (*p.kind_weights, ("triple", 1)) if k in kinds for _ in range(weight)])
    while True:
        spec = _draw(rng, kind, p, max_count=p.max_count if wanted == "count" else min(p.max_count, MAX_TRAIN_COUNT))
        if spec is not None and split_of(spec) == wanted:
            return spec


def random_word_spec(seed: int) -> SceneSpec:
    """A string of one to four letters as likely as any other, in a colour; of the split `train`, so never a held-out word."""
    rng = Rng("random word", seed)
    while True:
        word = "".join(rng.choice(LETTERS) for _ in range(1 + rng.below(4)))
        spec = SceneSpec("word", word=word, word_colour=rng.choice(tuple(COLOURS)))
        if split_of(spec) == "train":
            return spec


def all_specs(preset: str = "scenes_simple") -> Iterator[SceneSpec]:
    """Every different scene of a small preset, once each, in canonical order."""
    p = get_preset(preset)
    if p.max_pair_count > 1:
        raise ValueError(f"preset {preset!r} has too many scenes to list; only 'scenes_simple' can be listed")
    objects = [Group(1, *o) for o in product(SIZES, COLOURS, p.shapes)]
    for count, g in product(range(1, p.max_count + 1), objects):
        yield SceneSpec("single", (Group(count, g.size, g.colour, g.shape),))
    for a, b, relation in product(objects, objects, ("left of", "above")):
        if a != b:
            yield SceneSpec("pair", (a, b), relation)
    for word, colour in product(WORDS, COLOURS):
        yield SceneSpec("word", word=word, word_colour=colour)


def _draw(rng: Rng, kind: str, p: Preset, max_count: int) -> SceneSpec | None:
    """One random scene of a kind, or None where the draw does not fit into a picture."""
    if kind == "word":
        return SceneSpec("word", word=rng.choice(WORDS), word_colour=rng.choice(tuple(COLOURS)))
    limit = {"single": max_count, "pair": p.max_pair_count, "triple": 2}[kind]
    groups = tuple(
        Group(1 + rng.below(limit), rng.choice(SIZES), rng.choice(tuple(COLOURS)), rng.choice(p.shapes))
        for _ in range(NUM_GROUPS[kind])
    )
    related = kind == "pair" and rng.below(100) >= p.unrelated_percent
    relation = rng.choice(RELATIONS) if related else None
    return SceneSpec(kind, groups, relation) if _fits(groups, related) else None


def _fits(groups: tuple[Group, ...], related: bool) -> bool:
    """Whether groups differ pairwise and can be placed with clear gaps at 32 pixels."""
    if len({(g.size, g.colour, g.shape) for g in groups}) < len(groups):
        return False
    large = [g.count for g in groups if g.size == "large"]
    if len(groups) == 1:
        return sum(large) <= 4
    if sum(g.count for g in groups) > MAX_OBJECTS or sum(large) > 3:
        return False
    return not (related and max(large, default=0) > 2)
