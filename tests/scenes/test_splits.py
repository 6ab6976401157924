"""Held-out splits: decided by the spec, disjoint in scenes and in captions."""

from __future__ import annotations

from itertools import combinations

import pytest

from scenes.captions import caption
from scenes.grammar import COLOURS, PRESETS, SHAPES, Group, SceneSpec, all_specs, sample_spec
from scenes.splits import HELD_OUT_CELLS, SPLITS, caption_style, spec_split, split_of
from scenes.vocabulary import LETTERS, WORDS

CASES = [(p, s) for p in PRESETS for s in SPLITS if (p, s) != ("scenes_simple", "length")]


@pytest.mark.parametrize(("preset", "split"), CASES)
def test_a_sampled_spec_is_of_its_split(preset: str, split: str) -> None:
    specs = [sample_spec(i, preset, split) for i in range(40)]
    assert {split_of(s) for s in specs} == {spec_split(split)}
    assert len({s.canonical() for s in specs}) > 8


@pytest.mark.parametrize("preset", PRESETS)
def test_splits_share_no_scene_and_no_caption(preset: str) -> None:
    names = [s for p, s in CASES if p == preset]
    seen = {s: [sample_spec(i, preset, s) for i in range(200)] for s in names}
    captions = {s: {caption(x, i, caption_style(s), preset) for i, x in enumerate(seen[s])} for s in names}
    for a, b in combinations(names, 2):
        assert not captions[a] & captions[b], (a, b)
        if {a, b} != {"iid", "language"}:  # language has the scenes of iid in other words
            assert not {x.canonical() for x in seen[a]} & {x.canonical() for x in seen[b]}, (a, b)


def test_held_out_cells_leave_most_of_each_colour_and_shape() -> None:
    assert [sum(shape == s for s, _ in HELD_OUT_CELLS) for shape in SHAPES] == [1] * len(SHAPES)
    assert all(sum(colour == c for _, c in HELD_OUT_CELLS) <= 1 for colour in COLOURS)
    specs = [s for s in all_specs() if split_of(s) == "train"]
    cells = {(g.shape, g.colour) for s in specs for g in s.groups}
    assert len(cells) == 18 - 3 and not cells & HELD_OUT_CELLS


def test_training_has_enough_and_every_letter() -> None:
    train = [s for s in all_specs() if split_of(s) == "train"]
    total = {k: sum(s.kind == k for s in all_specs()) for k in ("single", "pair", "word")}
    share = {k: sum(s.kind == k for s in train) / total[k] for k in total}
    assert all(v > 0.5 for v in share.values()), share
    words = {s.word for s in train if s.kind == "word"}
    assert set("".join(w for w in words if len(w) > 1)) == set(LETTERS)
    held_out = [w for w in WORDS if split_of(SceneSpec("word", word=w, word_colour="red")) == "word"]
    assert 0.15 < len(held_out) / len(WORDS) < 0.25 and min(map(len, held_out)) > 1


def test_rules_by_hand() -> None:
    assert split_of(SceneSpec("single", (Group(2, "small", "purple", "circle"),))) == "combo"
    assert split_of(SceneSpec("single", (Group(5, "small", "red", "circle"),))) == "count"
    assert split_of(SceneSpec("single", (Group(4, "small", "red", "triangle"),))) == "count"
    assert split_of(SceneSpec("single", (Group(5, "small", "purple", "circle"),))) == "mixed"
    groups = (Group(1, "small", "red", "triangle"), Group(1, "small", "green", "circle"))
    assert split_of(SceneSpec("pair", groups, "left of")) == "relation"
    assert split_of(SceneSpec("pair", groups[::-1], "right of")) == "relation"
    assert split_of(SceneSpec("pair", groups, "right of")) != "relation"


def test_binding_holds_out_meetings_not_objects() -> None:
    specs = [s for s in all_specs() if s.kind == "pair"]
    held_out = {frozenset((g.colour, g.shape) for g in s.groups) for s in specs if split_of(s) == "binding"}
    train = [{(g.colour, g.shape) for g in s.groups} for s in specs if split_of(s) == "train"]
    assert held_out and not any(frozenset(t) in held_out for t in train)
    assert set().union(*held_out) <= set().union(*train)
