"""The grammar: specs, their canonical names and how they are drawn."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from scenes.font import COLUMNS, GLYPHS, ROWS
from scenes.grammar import PRESETS, Group, SceneSpec, all_specs, sample_spec
from scenes.rng import Rng, stable_hash
from scenes.vocabulary import LETTERS, WORDS

A, B = Group(1, "small", "red", "circle"), Group(1, "large", "blue", "square")


def test_random_numbers_are_pinned() -> None:
    rng = Rng("test", 0)
    assert [rng.below(1000) for _ in range(5)] == [rng_ % 1000 for rng_ in _splitmix64(stable_hash("test", 0), 5)]
    assert all(2 <= Rng(i).uniform(2, 3) < 3 for i in range(100))


def _splitmix64(state: int, n: int) -> list[int]:
    out, mask = [], 2**64 - 1
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        out.append(z ^ z >> 31)
    return out


@pytest.mark.parametrize("preset", PRESETS)
def test_a_spec_survives_json(preset: str) -> None:
    for i in range(50):
        spec = sample_spec(i, preset)
        assert SceneSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_canonical_ignores_how_a_scene_is_told() -> None:
    assert SceneSpec("pair", (A, B), "left of").canonical() == SceneSpec("pair", (B, A), "right of").canonical()
    assert SceneSpec("pair", (A, B), "below").canonical() == SceneSpec("pair", (B, A), "above").canonical()
    assert SceneSpec("pair", (A, B)).canonical() == SceneSpec("pair", (B, A)).canonical()
    assert SceneSpec("pair", (A, B), "left of").canonical() != SceneSpec("pair", (B, A), "left of").canonical()


def test_sampling_is_a_function_of_its_arguments_and_keeps_the_shares() -> None:
    specs = [sample_spec(i, "scenes_simple") for i in range(1200)]
    assert specs[:50] == [sample_spec(i, "scenes_simple") for i in range(50)]
    shares = {kind: n / 1200 for kind, n in Counter(s.kind for s in specs).items()}
    assert shares == pytest.approx({"single": 4 / 11, "pair": 6 / 11, "word": 1 / 11}, abs=0.04)
    assert {g.shape for s in specs for g in s.groups} == {"circle", "square", "triangle"}
    assert all(g.count == 1 for s in specs if s.kind == "pair" for g in s.groups)


def test_scenes_has_all_skills() -> None:
    specs = [sample_spec(i, "scenes") for i in range(500)]
    assert {g.shape for s in specs for g in s.groups} == {"circle", "square", "triangle", "diamond", "cross"}
    assert {g.count for s in specs for g in s.groups} == {1, 2, 3, 4}
    assert {s.relation for s in specs} == {None, "left of", "right of", "above", "below"}
    assert max(sum(g.count for g in s.groups) for s in specs) == 5


def test_the_small_preset_can_be_listed() -> None:
    names = [s.canonical() for s in all_specs("scenes_simple")]
    assert len(names) == len(set(names)) == 4 * 36 + 2 * 36 * 35 + 6 * len(WORDS)
    assert {sample_spec(i, "scenes_simple").canonical() for i in range(200)} <= set(names)
    with pytest.raises(ValueError, match="too many"):
        next(all_specs("scenes"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "crowd"}, "unknown kind"),
        ({"kind": "pair", "groups": (A,)}, "has 2 groups"),
        ({"kind": "single", "groups": (Group(7, "small", "red", "circle"),)}, "not a group"),
        ({"kind": "single", "groups": (A,), "relation": "above"}, "pairs only"),
        ({"kind": "pair", "groups": (A, B), "relation": "near"}, "near"),
        ({"kind": "word", "word": "cat", "word_colour": "red"}, "capital"),
        ({"kind": "word", "word": "HELLO", "word_colour": "red"}, "HELLO"),
        ({"kind": "word", "word": "CAT", "word_colour": "pink"}, "pink"),
    ],
)
def test_an_impossible_spec_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SceneSpec(**arguments)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="scenes_simple"):
        sample_spec(0, "scene")
    with pytest.raises(ValueError, match="iid"):
        sample_spec(0, "scenes", "val")
    with pytest.raises(ValueError, match="length"):
        sample_spec(0, "scenes_simple", "length")


def test_font_letters_differ_and_touch_all_sides() -> None:
    assert "".join(GLYPHS) == LETTERS
    assert len({g.tobytes() for g in GLYPHS.values()}) == 26
    for letter, g in GLYPHS.items():
        assert g.shape == (ROWS, COLUMNS)
        assert g[0].any() and g[-1].any() and g[:, 0].any() and g[:, -1].any(), letter


def test_words_are_few_short_and_use_every_letter() -> None:
    assert len(WORDS) == len(set(WORDS)) and 190 <= len(WORDS) <= 230
    assert {len(w) for w in WORDS} == {1, 2, 3, 4}
    assert set("".join(w for w in WORDS if len(w) > 1)) == set(LETTERS)
