"""The parser: it reads real renders without error, is invariant where it should be, and knows when nothing is there."""

from __future__ import annotations

import inspect
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from scenes.grammar import COLOURS, PRESETS, Group, SceneSpec, sample_spec
from scenes.labelling import label
from scenes.parser import ParsedScene, parse
from scenes.reading import Reading
from scenes.render import render
from scenes.scoring import aggregate, score

OBJECTS = SceneSpec("pair", (Group(2, "small", "red", "circle"), Group(1, "large", "blue", "triangle")), "left of")


def _read(preset: str, n: int, image_size: int, first: int = 10**6) -> tuple[list[SceneSpec], list[ParsedScene]]:
    specs = [sample_spec(first + i, preset) for i in range(n)]
    return specs, [parse(render(s, i, image_size)[0]) for i, s in enumerate(specs)]


def _objects(parsed: ParsedScene) -> Counter:
    return Counter((o.colour, o.shape, o.size) for o in parsed.objects)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("preset", "image_size", "n", "least"), [
    ("scenes", 64, 1000, 0.995),
    ("scenes_simple", 64, 1000, 0.995),
    ("scenes_simple", 32, 500, 0.99),
])  # fmt: skip
def test_real_renders_are_read_exactly_and_shuffled_captions_are_not(
    preset: str, image_size: int, n: int, least: float
) -> None:
    specs, parsed = _read(preset, n, image_size)
    rows = aggregate([score(s, p) for s, p in zip(specs, parsed)])
    assert rows["all_correct"]["mean"] >= least, rows
    assert all(row["mean"] >= least for row in rows.values()), rows
    chance = aggregate([score(specs[(i + n // 2) % n], p) for i, p in enumerate(parsed)])
    assert chance["all_correct"]["mean"] < 0.015, chance["all_correct"]


def test_the_parser_takes_a_picture_and_nothing_else() -> None:
    assert list(inspect.signature(parse).parameters) == ["image_u8"]


@pytest.mark.parametrize("preset", PRESETS)
def test_flip_colours_and_shift(preset: str) -> None:
    checked = 0
    for i in range(60):
        spec = sample_spec(i, preset)
        image_u8, _ = render(spec, i, 64)
        if spec.kind == "word":
            continue
        checked += 1
        parsed = parse(image_u8)
        flipped = parse(image_u8[:, ::-1].copy())
        assert _objects(flipped) == _objects(parsed)
        assert sorted(o.x for o in flipped.objects) == pytest.approx(sorted(1 - o.x for o in parsed.objects), abs=0.01)
        if spec.relation in ("left of", "right of"):
            assert score(spec, parsed)["relation"] == 1 and score(spec, flipped)["relation"] == 0
        for dy, dx in ((0, 1), (1, 0), (-1, -1)):
            assert _objects(parse(np.roll(image_u8, (dy, dx), axis=(0, 1)))) == _objects(parsed)
    assert checked > 40


def test_exchanged_colours_exchange_labels() -> None:
    names = list(COLOURS)
    other = dict(zip(names, names[1:] + names[:1]))
    for i in range(30):
        spec = sample_spec(i, "scenes")
        if spec.kind == "word":
            continue
        groups = tuple(Group(g.count, g.size, other[g.colour], g.shape) for g in spec.groups)
        parsed = parse(render(spec, i, 64)[0])
        changed = parse(render(SceneSpec(spec.kind, groups, spec.relation), i, 64)[0])
        assert _objects(changed) == Counter((other[o.colour], o.shape, o.size) for o in parsed.objects)


def test_accuracy_falls_with_blur_and_survives_a_little() -> None:
    items = [(s, render(s, i, 64)[0]) for i, s in enumerate(sample_spec(i, "scenes") for i in range(60))]
    rates = []
    for radius in (0, 1, 2.5, 5):
        images = [np.array(Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius))) for _, x in items]
        rates.append(np.mean([score(s, parse(x))["all_correct"] for (s, _), x in zip(items, images)]))
    assert rates == sorted(rates, reverse=True) and rates[1] > 0.97 and rates[-1] < 0.3, rates


def test_noise_and_brightness_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    for i in range(40):
        spec = sample_spec(i, "scenes")
        image = render(spec, i, 64)[0].astype(float)
        noisy = np.clip(0.85 * image + 10 + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        assert score(spec, parse(noisy))["all_correct"] == 1, spec.canonical()


def test_a_picture_of_less_contrast_is_read() -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        spec = sample_spec(i, "scenes")
        faint = 0.6 * render(spec, i, 64)[0] + rng.normal(0, 4, (64, 64, 3))
        assert score(spec, parse(np.clip(faint, 0, 255).astype(np.uint8)))["all_correct"] == 1, spec.canonical()


def test_objects_on_a_light_background_are_read() -> None:
    for name, colour in COLOURS.items():
        image = np.full((64, 64, 3), 150, dtype=np.uint8)
        image[20:38, 30:48] = colour
        assert [(o.colour, o.shape, o.size) for o in parse(image).objects] == [(name, "square", "large")]


def test_empty_noise_and_giant_blobs() -> None:
    blank = parse(np.full((64, 64, 3), 24, dtype=np.uint8))
    assert blank.objects == () and blank.word is None and blank.malformed == 0
    noise = parse(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    assert noise.word is None and (noise.malformed > 0 or not noise.objects)
    giant = np.full((64, 64, 3), 24, dtype=np.uint8)
    giant[4:60, 4:60] = COLOURS["red"]
    assert parse(giant).malformed == 1


def test_what_has_no_known_shape_is_malformed() -> None:
    bar = np.full((64, 64, 3), 24, dtype=np.uint8)
    bar[30:34, 8:56] = COLOURS["red"]
    found = parse(bar)
    assert found.malformed == 1 and found.objects[0].malformed and found.objects[0].iou < 0.6


@pytest.mark.parametrize(("fit", "word"), [(0.5, None), (0.65, None), (0.66, "I")])
def test_a_word_is_seen_where_it_fits_well_and_better_than_objects(fit: float, word: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = np.full((64, 64, 3), 24, dtype=np.uint8)
    bar[20:44, 25:39] = COLOURS["red"]
    monkeypatch.setattr("scenes.parser.read_word", lambda mask: Reading("I", 0.0))
    alone = parse(bar)
    assert alone.word is None and 0.652 < alone.fit < 0.655  # as a square
    monkeypatch.setattr("scenes.parser.read_word", lambda mask: Reading("I", fit))
    assert parse(bar).word == word


@pytest.mark.parametrize("shape", ["triangle", "square", "circle"])
def test_a_small_object_with_ragged_edges_is_no_word(shape: str) -> None:
    """What is lower than the smallest letters holds none, however well two letters that reach beyond it would fit."""
    for seed in range(10):
        image, _ = render(SceneSpec("single", (Group(1, "small", "red", shape),)), seed, 64)
        ragged = np.stack([np.roll(row, 1 if y // 2 % 2 else -1, axis=0) for y, row in enumerate(image)])
        found = parse(ragged)
        assert found.word is None and [(o.colour, o.size, o.shape) for o in found.objects] == [("red", "small", shape)]


@pytest.mark.parametrize("image_size", [32, 64])
def test_the_smallest_words_are_read(image_size: int) -> None:
    lowest = sorted((render(sample_spec(seed, "scenes_simple", "word"), seed, image_size)[1][0].height, seed) for seed in range(400))[:10]
    assert lowest[0][0] < 0.265
    for _, seed in lowest:
        spec = sample_spec(seed, "scenes_simple", "word")
        assert parse(render(spec, seed, image_size)[0]).word == spec.word


def test_specks_are_debris_and_touching_colours_are_two_objects() -> None:
    image_u8, _ = render(OBJECTS, 0, 64)
    clean = parse(image_u8)
    speck = image_u8.copy()
    speck[1:3, 1:3] = COLOURS["green"]
    assert _objects(parse(speck)) == _objects(clean) and parse(speck).debris == pytest.approx(4 / 64**2)
    touching = np.full((64, 64, 3), 24, dtype=np.uint8)
    touching[20:38, 10:28] = COLOURS["red"]
    touching[20:38, 28:46] = COLOURS["cyan"]
    assert _objects(parse(touching)) == Counter({("red", "square", "large"): 1, ("cyan", "square", "large"): 1})


def test_words_at_several_sizes_and_a_broken_letter() -> None:
    for n in (48, 96, 160):
        parsed = parse(render(SceneSpec("word", word="JUMP", word_colour="green"), 1, n)[0])
        assert (parsed.word, parsed.word_colour, parsed.objects) == ("JUMP", "green", ())
    image_u8, boxes = render(SceneSpec("word", word="CAT", word_colour="red"), 1, 64)
    a = boxes[1]
    x0, x1 = round((a.x - a.width / 2) * 64), round((a.x + a.width / 2) * 64)
    y0, y1 = round((a.y - a.height / 2) * 64), round(a.y * 64)
    image_u8[y0:y1, x0:x1] = (24, 24, 28)
    assert parse(image_u8).word != "CAT"


def test_wrong_arrays_are_refused() -> None:
    image_u8, _ = render(OBJECTS, 0, 64)
    for wrong in (image_u8 / 255.0, image_u8[None], image_u8[:, :, 0], image_u8[:32], image_u8[:8, :8]):
        with pytest.raises(ValueError, match="parse needs"):
            parse(wrong)


def test_labels_equal_a_flood_fill() -> None:
    rng = np.random.default_rng(1)
    for density in (0.1, 0.5, 0.65, 1.0):
        mask = rng.random((17, 23)) < density
        labels, n = label(mask)
        expected, m = _flood(mask)
        assert n == m and ((labels > 0) == mask).all()
        assert len(set(zip(labels[mask].tolist(), expected[mask].tolist()))) == n


def _flood(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels, n = np.zeros(mask.shape, dtype=int), 0
    for start in zip(*np.nonzero(mask)):
        if labels[start]:
            continue
        n += 1
        todo = [start]
        while todo:
            y, x = todo.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = n
                todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return labels, n
