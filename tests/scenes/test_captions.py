"""Captions: few and unambiguous in the small preset, many in the large one, held-out ones of their own."""

from __future__ import annotations

from collections import defaultdict

import pytest

from scenes.captions import HELD_OUT, RICH, SIMPLE, all_captions, caption
from scenes.grammar import Group, SceneSpec, all_specs, sample_spec

RED, BLUE = Group(1, "small", "red", "circle"), Group(1, "large", "blue", "square")


def test_by_hand() -> None:
    def captions(spec: SceneSpec) -> set[str]:
        return {caption(spec, i) for i in range(40)}

    assert "two small red circles" in captions(SceneSpec("single", (Group(2, "small", "red", "circle"),)))
    assert captions(SceneSpec("pair", (RED, BLUE), "left of")) == {
        "a small red circle left of a large blue square",
        "a large blue square right of a small red circle",
        "a picture of a small red circle left of a large blue square",
    }
    assert captions(SceneSpec("word", word="CAT", word_colour="red")) == {
        'the word "CAT" in red',
        '"CAT" written in red',
    }


def test_few_captions_and_each_means_one_scene() -> None:
    every = all_captions("scenes_simple")
    assert len(every) == len(set(every)) < 15_000
    assert set(all_captions("scenes_simple", "train")) < set(every)
    scenes = defaultdict(set)
    for spec in all_specs():
        for seed in range(6):
            scenes[caption(spec, seed)].add(spec.canonical())
    assert set(scenes) <= set(every)
    assert max(map(len, scenes.values())) == 1


def test_caption_is_a_function_of_spec_and_seed_however_it_is_told() -> None:
    told, retold = SceneSpec("pair", (RED, BLUE), "above"), SceneSpec("pair", (BLUE, RED), "below")
    for preset in ("scenes", "scenes_simple"):
        for style in ("train", "held_out"):
            assert [caption(told, i, style, preset) for i in range(20)] == [
                caption(retold, i, style, preset) for i in range(20)
            ]


def test_rich_captions_vary() -> None:
    spec = SceneSpec("pair", (RED, Group(3, "large", "cyan", "cross")), "above")
    captions = {caption(spec, i, preset="scenes") for i in range(300)}
    assert len(captions) > 60
    assert any("three big cyan plus signs" in c for c in captions) and any("crosses" in c for c in captions)
    assert min(map(len, (RICH.single, RICH.related, RICH.listed, RICH.word))) >= 6


def test_held_out_language_shares_no_template_and_no_synonym_with_training() -> None:
    for language in (SIMPLE, RICH):
        for kind in ("single", "related", "listed", "word"):
            assert not set(getattr(language, kind)) & set(getattr(HELD_OUT, kind))
    for word, names in HELD_OUT.synonyms.items():
        assert not set(names) & set(RICH.synonyms.get(word, (word,)))
    train = {caption(sample_spec(i, "scenes"), i, preset="scenes") for i in range(500)}
    assert not train & {caption(sample_spec(i, "scenes"), i, "held_out", "scenes") for i in range(500)}


def test_articles_and_lists() -> None:
    groups = (RED, BLUE, Group(2, "large", "green", "triangle"))
    captions = {caption(SceneSpec("triple", groups), i) for i in range(20)}
    assert "a large blue square, a small red circle and two large green triangles" in {
        c.removeprefix("there is ").removeprefix("a picture of ") for c in captions
    } or any(" and " in c and ", " in c for c in captions)
    held_out = {caption(SceneSpec("single", (BLUE,)), i, "held_out") for i in range(40)}
    assert any("an oversized blue" in c for c in held_out) and not any("a oversized" in c for c in held_out)


def test_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out"):
        caption(SceneSpec("single", (RED,)), 0, style="test")


def test_one_thing_is_and_several_are() -> None:
    def starts(spec: SceneSpec, preset: str) -> set[str]:
        captions = {caption(spec, i, preset=preset) for i in range(200)}
        return {" ".join(c.split()[:3]) for c in captions if c.startswith("there")}

    one, two = (SceneSpec("single", (Group(n, "small", "red", "circle"),)) for n in (1, 2))
    for preset in ("scenes", "scenes_simple"):
        assert starts(one, preset) == {"there is a"} and starts(two, preset) == {"there are two"}
    pair = SceneSpec("pair", (Group(2, "small", "red", "circle"), BLUE), "left of")
    assert starts(pair, "scenes") == {"there are two", "there is a"}  # the verb goes with the group told first


@pytest.mark.parametrize("style", ["train", "held_out"])
@pytest.mark.parametrize("preset", ["scenes", "scenes_simple"])
def test_whichever_group_is_told_first_the_relation_is_true(preset: str, style: str) -> None:
    left, right, first = {"left"}, {"right"}, set()
    for i in range(120):
        words = caption(SceneSpec("pair", (RED, BLUE), "left of"), i, style, preset).split()
        red_first = words.index("red") < words.index("blue")
        assert (left if red_first else right) <= set(words) and not (right if red_first else left) & set(words), words
        first.add(red_first)
    assert first == {True, False}
