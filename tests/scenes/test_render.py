"""The renderer: pinned bytes, one composition for all resolutions, clear gaps and relations."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from scenes.coverage import FULL, bitmap_coverage, shape_coverage
from scenes.font import bitmap
from scenes.grammar import PRESETS, SHAPES, Group, SceneSpec, sample_spec
from scenes.layout import BORDER, GAP, layout
from scenes.matching import FILL
from scenes.render import BACKGROUND, render

PAIR = SceneSpec("pair", (Group(2, "small", "red", "circle"), Group(1, "large", "blue", "triangle")), "left of")
WORD = SceneSpec("word", word="QUIZ", word_colour="yellow")
MANY = SceneSpec("single", (Group(6, "small", "cyan", "cross"),))


@pytest.mark.parametrize(
    ("spec", "seed", "image_size", "digest"),
    [
        (PAIR, 0, 64, "13ed088ec6925a57"),
        (PAIR, 1, 32, "1a7d84c9153636ba"),
        (WORD, 2, 64, "0bac16a451e5634c"),
        (MANY, 3, 100, "ce2f9e0cbec1edf6"),
    ],
)
def test_bytes_are_the_same_everywhere(spec: SceneSpec, seed: int, image_size: int, digest: str) -> None:
    image_u8, _ = render(spec, seed, image_size)
    assert image_u8.dtype == np.uint8 and image_u8.shape == (image_size, image_size, 3)
    assert sha256(image_u8.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("preset", PRESETS)
def test_one_composition_at_every_resolution(preset: str) -> None:
    for i in range(20):
        spec = sample_spec(i, preset)
        small, boxes = render(spec, i, 32)
        large, same = render(spec, i, 128)
        assert boxes == same
        reduced = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(reduced - small).max() < 16  # a sixteenth of a pixel, the most that sub-rows can miss


@pytest.mark.parametrize("preset", PRESETS)
def test_gaps_borders_sizes_and_relations(preset: str) -> None:
    for i in range(300):
        spec = sample_spec(i, preset)
        boxes = layout(spec, i)
        for b in boxes:
            assert b.x - b.width / 2 >= BORDER - 1e-9 and b.x + b.width / 2 <= 1 - BORDER + 1e-9
            assert b.y - b.height / 2 >= BORDER - 1e-9 and b.y + b.height / 2 <= 1 - BORDER + 1e-9
        if spec.kind == "word":
            assert "".join(b.shape for b in boxes) == spec.word
            continue
        assert [(b.size == "small") for b in boxes] == [b.width < 0.215 for b in boxes]
        for j, a in enumerate(boxes):
            for b in boxes[:j]:
                assert max(abs(a.x - b.x), abs(a.y - b.y)) - (a.width + b.width) / 2 >= GAP - 1e-9
        assert [sum(b.group == k for b in boxes) for k in range(len(spec.groups))] == [g.count for g in spec.groups]
        if spec.relation:
            axis = "x" if spec.relation in ("left of", "right of") else "y"
            sign = 1 if spec.relation in ("left of", "above") else -1
            a, b = ([getattr(o, axis) for o in boxes if o.group == k] for k in (0, 1))
            assert all(sign * (q - p) > 0.14 for p in a for q in b)


def test_the_fullest_scenes_find_room() -> None:
    large = tuple(Group(n, "large", c, "square") for n, c in ((2, "red"), (1, "blue")))
    fullest = [
        SceneSpec("single", (Group(4, "large", "red", "square"),)),
        MANY,
        SceneSpec("pair", (*large,), "above"),
        SceneSpec("pair", (Group(3, "large", "red", "square"), Group(2, "small", "red", "circle"))),
        SceneSpec("pair", (Group(2, "large", "red", "square"), Group(3, "small", "red", "circle")), "left of"),
        SceneSpec("pair", (Group(4, "small", "red", "square"), Group(1, "large", "red", "circle")), "right of"),
    ]
    for spec in fullest:
        for seed in range(40):
            layout(spec, seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_the_area(shape: str) -> None:
    cover = shape_coverage(shape, 20.3, 19.8, 24.7, 0, 0, 40, 40) / FULL
    assert cover.sum() == pytest.approx(FILL[shape] * 24.7**2, rel=0.01)
    assert cover.max() == 1 and (cover == 0).any()


def test_word_coverage_has_no_seams() -> None:
    cells = bitmap("OI")
    cover = bitmap_coverage(cells, 1.37, 2.21, 1.73, 0, 0, 24, 18) / FULL
    assert cover.sum() == pytest.approx(cells.sum() * 1.73**2, rel=0.01)
    solid = bitmap_coverage(np.ones((4, 4), dtype=np.int64), 1.37, 2.21, 1.73, 0, 0, 10, 10)
    assert (solid[4:8, 3:7] == FULL).all()


def test_background_and_size_errors() -> None:
    image_u8, _ = render(PAIR, 0, 64)
    assert tuple(image_u8[0, 0]) == BACKGROUND
    for image_size in (16, 512):
        with pytest.raises(ValueError, match=str(image_size)):
            render(PAIR, 0, image_size)


@pytest.mark.parametrize(
    ("shape", "widths"),
    [("circle", (0.6, 1, 0.6)), ("square", (1, 1, 1)), ("triangle", (0.1, 0.5, 0.9)), ("diamond", (0.2, 1, 0.2)),
     ("cross", (1 / 3, 1, 1 / 3))],
)  # fmt: skip
def test_shapes_are_as_wide_as_drawn_by_hand(shape: str, widths: tuple[float, ...]) -> None:
    """At a tenth, the half and nine tenths of the height, in sides."""
    cover = shape_coverage(shape, 50, 50, 100, 0, 0, 100, 100) / FULL
    assert [cover[y].sum() / 100 for y in (10, 50, 89)] == pytest.approx(widths, abs=0.02)


def test_letters_stand_six_cells_apart_and_are_five_wide() -> None:
    boxes = layout(WORD, 0)
    cell = boxes[0].height / 7
    assert [b.x - a.x for a, b in zip(boxes, boxes[1:])] == pytest.approx([6 * cell] * 3)
    assert all(b.width == pytest.approx(5 * cell) and b.y == boxes[0].y for b in boxes)
