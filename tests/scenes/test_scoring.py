"""Scoring: each skill reacts to its own mistake and to no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scenes.grammar import PRESETS, Group, SceneSpec, sample_spec
from scenes.parser import ParsedObject, ParsedScene, parse
from scenes.render import render
from scenes.scoring import aggregate, aggregate_by_kind, diagnostics, score, wilson

SPEC = SceneSpec("pair", (Group(2, "small", "red", "circle"), Group(1, "large", "blue", "square")), "left of")


def _object(colour: str, shape: str, size: str, x: float, y: float = 0.5) -> ParsedObject:
    return ParsedObject(colour, shape, size, x, y, 0.15 if size == "small" else 0.28, 1.0, 0.3, malformed=False)


A1, A2 = _object("red", "circle", "small", 0.2), _object("red", "circle", "small", 0.3, 0.8)
B = _object("blue", "square", "large", 0.7)


def _wrong(objects: tuple[ParsedObject, ...], spec: SceneSpec = SPEC) -> set[str]:
    return {k for k, v in score(spec, ParsedScene(objects)).items() if v < 1}


def test_a_right_picture_in_any_order_is_exact() -> None:
    assert _wrong((A1, A2, B)) == _wrong((B, A2, A1)) == set()
    assert set(score(SPEC, ParsedScene((A1, A2, B)))) == {
        "presence", "count", "colour", "shape", "size", "binding", "relation", "all_correct"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "skills"),
    [
        (replace(A1, colour="green"), {"colour", "binding", "all_correct"}),
        (replace(A1, shape="triangle"), {"shape", "binding", "all_correct"}),
        (replace(A1, size="large"), {"size", "binding", "all_correct"}),
        (replace(A1, malformed=True), {"shape", "binding", "all_correct"}),
        (replace(A1, x=0.9), {"relation", "all_correct"}),
        (replace(A1, colour="green", shape="triangle"), {"presence", "all_correct"}),
    ],
)
def test_one_wrong_attribute_shows_in_its_skill_only(changed: ParsedObject, skills: set[str]) -> None:
    assert _wrong((changed, A2, B)) == skills


def test_removing_or_adding_an_object_changes_counts_only() -> None:
    assert _wrong((A1, B)) == {"presence", "count", "all_correct"}
    assert score(SPEC, ParsedScene((A1, B)))["presence"] == pytest.approx(2 / 3)
    assert _wrong((A1, A2, B, A2)) == {"count", "all_correct"}
    assert diagnostics(SPEC, ParsedScene((A1, A2, B, A2)))["num_extra"] == 1


def test_a_missing_group_fails_the_relation_and_a_blank_picture_everything() -> None:
    assert "relation" in _wrong((A1, A2))
    assert "relation_given_groups" not in diagnostics(SPEC, ParsedScene((A1, A2)))
    assert diagnostics(SPEC, ParsedScene((A1, B)))["relation_given_groups"] == 1
    assert set(score(SPEC, ParsedScene(())).values()) == {0.0}


@pytest.mark.parametrize("relation, first", [("left of", (0.2, 0.8)), ("right of", (0.8, 0.2)), ("above", (0.8, 0.2)), ("below", (0.2, 0.8))])
def test_a_relation_is_of_its_own_axis_and_direction(relation: str, first: tuple[float, float]) -> None:
    spec = SceneSpec("pair", (Group(1, "small", "red", "circle"), Group(1, "large", "blue", "square")), relation)
    second = (1 - first[0], 1 - first[1])
    found = [score(spec, ParsedScene((_object("red", "circle", "small", *a), _object("blue", "square", "large", *b))))["relation"]
             for a, b in ((first, second), (second, first))]  # fmt: skip
    assert found == [1, 0]


def test_a_picture_with_something_malformed_is_not_exact_whatever_it_holds() -> None:
    values = score(SPEC, ParsedScene((A1, A2, B), malformed=1))
    assert values.pop("all_correct") == 0 and set(values.values()) == {1}


def test_too_few_and_too_many_are_errors_of_the_count() -> None:
    assert diagnostics(SPEC, ParsedScene((A1,)))["count_error"] == 2
    assert diagnostics(SPEC, ParsedScene((A1, A2, B, B)))["count_error"] == 1


def test_swapped_attributes_are_a_binding_error() -> None:
    spec = SceneSpec("pair", (Group(1, "small", "red", "circle"), Group(1, "small", "blue", "square")), "left of")
    values = score(spec, ParsedScene((_object("blue", "circle", "small", 0.2), _object("red", "square", "small", 0.8))))
    assert values["binding"] == values["colour"] == 0
    assert values["shape"] == values["count"] == values["relation"] == 1


def test_many_objects_stay_fast_and_find_the_right_ones() -> None:
    crowd = tuple(_object("green", "triangle", "small", 0.01 * i) for i in range(60))
    assert _wrong((*crowd, A1, A2, B)) == {"count", "all_correct"}


def test_words() -> None:
    spec = SceneSpec("word", word="CAT", word_colour="red")
    assert score(spec, ParsedScene((), word="CAT", word_colour="red")) == {
        "presence": 1, "colour": 1, "spelling": 1, "letters": 1, "all_correct": 1
    }  # fmt: skip
    misspelt = score(spec, ParsedScene((), word="CUT", word_colour="red"))
    assert misspelt["letters"] == pytest.approx(2 / 3) and misspelt["spelling"] == misspelt["all_correct"] == 0
    assert score(spec, ParsedScene((), word="CATS", word_colour="red"))["letters"] == 0.75
    assert score(spec, ParsedScene((), word="CAT", word_colour="blue"))["all_correct"] == 0
    assert set(score(spec, ParsedScene((A1,))).values()) == {0.0}
    assert set(score(SPEC, ParsedScene((), word="CAT", word_colour="red")).values()) == {0.0}


@pytest.mark.parametrize("preset", PRESETS)
def test_an_edited_picture_fails_the_edited_skill_only(preset: str) -> None:
    edits = {"colour": ("red", "blue"), "shape": ("circle", "square"), "size": ("small", "large")}
    for i in range(12):
        spec = sample_spec(i, preset)
        if spec.kind == "word" or len(spec.groups) > 1 or spec.groups[0].count > 2:
            continue
        for skill, (one, other) in edits.items():
            g = spec.groups[0]
            drawn = SceneSpec("single", (replace(g, **{skill: other if getattr(g, skill) == one else one}),))
            values = score(spec, parse(render(drawn, i, 64)[0]))
            assert {k for k, v in values.items() if v < 1} == {skill, "binding", "all_correct"}


def test_wilson_and_aggregate() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998
    assert wilson(0, 0) == (0, 1) and wilson(20, 20)[1] == pytest.approx(1)
    assert aggregate([{"all_correct": 1.0, "spelling": 1.0}, {"all_correct": 0.0}])["spelling"]["mean"] == 1
    rows = aggregate([{"all_correct": 1.0, "spelling": 0.0}, {"all_correct": 0.0}])
    assert rows["all_correct"]["mean"] == 0.5 and rows["all_correct"]["n"] == 2 and rows["spelling"]["n"] == 1
    assert rows["all_correct"]["low"] < 0.5 < rows["all_correct"]["high"]
    assert aggregate([]) == {}
    word = SceneSpec("word", word="CAT", word_colour="red")
    by_kind = aggregate_by_kind([SPEC, word], [{"all_correct": 1.0}, {"all_correct": 0.0}])
    assert by_kind["pair"]["all_correct"]["mean"] == 1 and by_kind["word"]["all_correct"]["mean"] == 0
