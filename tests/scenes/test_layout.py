"""Layouts: inside the picture, apart, and on the side that the relation says."""

from __future__ import annotations

import pytest

from scenes.grammar import sample_spec
from scenes.layout import BORDER, GAP, RELATION_GAP, SIDES, layout

SCENES = [(sample_spec(seed, "scenes", split="train"), seed) for seed in range(150)]


def test_boxes_lie_inside_the_picture_and_apart() -> None:
    for spec, seed in SCENES:
        boxes = layout(spec, seed)
        for i, a in enumerate(boxes):
            assert min(a.x - a.width / 2, a.y - a.height / 2) > BORDER - 1e-9
            assert max(a.x + a.width / 2, a.y + a.height / 2) < 1 - BORDER + 1e-9
            for b in boxes[:i] if spec.kind != "word" else ():
                assert max(abs(a.x - b.x), abs(a.y - b.y)) - (a.width + b.width) / 2 > GAP - 1e-9


def test_objects_are_those_of_the_spec() -> None:
    for spec, seed in SCENES:
        boxes = layout(spec, seed)
        if spec.kind == "word":
            assert "".join(box.shape for box in boxes) == spec.word and {box.size for box in boxes} == {"letter"}
            continue
        for i, group in enumerate(spec.groups):
            own = [box for box in boxes if box.group == i]
            assert len(own) == group.count
            assert {(box.colour, box.shape, box.size) for box in own} == {(group.colour, group.shape, group.size)}
            low, high = SIDES[group.size]
            assert all(low <= box.width == box.height <= high for box in own)


def test_relations_hold_with_a_gap() -> None:
    related = [(spec, seed) for spec, seed in SCENES if spec.kind != "word" and spec.relation]
    assert {spec.relation for spec, _ in related} == {"left of", "right of", "above", "below"}
    for spec, seed in related:
        boxes = layout(spec, seed)
        axis, side = ("x", "width") if spec.relation in ("left of", "right of") else ("y", "height")
        first, second = ([b for b in boxes if b.group == i] for i in (0, 1))
        before, after = (first, second) if spec.relation in ("left of", "above") else (second, first)
        end = max(getattr(b, axis) + getattr(b, side) / 2 for b in before)
        begin = min(getattr(b, axis) - getattr(b, side) / 2 for b in after)
        assert begin - end > RELATION_GAP - 1e-9


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layout_is_of_its_spec_and_seed(index: int) -> None:
    spec, seed = SCENES[index]
    assert layout(spec, seed) == layout(spec, seed) != layout(spec, seed + 1)
