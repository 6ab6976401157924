"""Captions: renderings of a spec as text, few per scene in `scenes_simple`, many templates and synonyms in `scenes`."""

from __future__ import annotations

from dataclasses import dataclass

from scenes.grammar import INVERSE, Group, SceneSpec, all_specs, get_preset
from scenes.rng import Rng
from scenes.splits import split_of

NUMBERS = ("a", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Language:
    """Templates and synonyms of a style; a word without synonyms stands for itself."""

    single: tuple[str, ...]
    related: tuple[str, ...]
    listed: tuple[str, ...]
    word: tuple[str, ...]
    synonyms: dict[str, tuple[str, ...]]


SIMPLE = Language(
    single=("{a}", "there {is} {a}", "a picture of {a}"),
    related=("{a} {rel} {b}", "{b} {inv} {a}", "a picture of {a} {rel} {b}"),
    listed=("{list}", "there {is} {list}", "a picture of {list}"),
    word=('the word "{word}" in {colour}', '"{word}" written in {colour}'),
    synonyms={},
)
RICH = Language(
    single=(
        "{a}",
        "there {is} {a}",
        "a picture of {a}",
        "an image with {a}",
        "{a} on a dark background",
        "we see {a}",
        "a scene containing {a}",
    ),
    related=(
        "{a} {rel} {b}",
        "{b} {inv} {a}",
        "a picture of {a} {rel} {b}",
        "there {is} {a} {rel} {b}",
        "an image with {a} {rel} {b}",
        "{a} placed {rel} {b}",
        "a scene containing {b} {inv} {a}",
    ),
    listed=(
        "{list}",
        "there {is} {list}",
        "a picture of {list}",
        "an image with {list}",
        "{list} on a dark background",
        "a scene containing {list}",
    ),
    word=(
        'the word "{word}" in {colour}',
        '"{word}" written in {colour}',
        'the text "{word}" in {colour}',
        '{colour} text that says "{word}"',
        'a picture of the word "{word}" in {colour}',
        '{colour} letters spelling "{word}"',
    ),
    synonyms={
        "small": ("small", "little", "tiny"),
        "large": ("large", "big"),
        "circle": ("circle", "disc"),
        "square": ("square", "box"),
        "diamond": ("diamond", "rhombus"),
        "cross": ("cross", "plus sign"),
        "left of": ("left of", "to the left of"),
        "right of": ("right of", "to the right of"),
        "above": ("above", "over"),
        "below": ("below", "under"),
    },
)
HELD_OUT = Language(
    single=("this drawing shows {a}", "look, {a}", "nothing but {a}"),
    related=(
        "this drawing shows {a} {rel} {b}",
        "look, {a} {rel} {b}",
        "we can find {b} {inv} {a}",
    ),
    listed=("this drawing shows {list}", "look, {list}", "we can find {list}"),
    word=('somebody wrote "{word}" with {colour} ink', 'it reads "{word}" and its colour is {colour}'),
    synonyms={
        "small": ("petite", "compact"),
        "large": ("huge", "oversized"),
        "circle": ("round shape", "dot"),
        "square": ("block", "square tile"),
        "triangle": ("triangular shape",),
        "diamond": ("lozenge",),
        "cross": ("plus shape",),
        "left of": ("on the left side of",),
        "right of": ("on the right side of",),
        "above": ("higher than",),
        "below": ("beneath", "lower than"),
    },
)
STYLES = ("train", "held_out")


def caption(spec: SceneSpec, seed: int, style: str = "train", preset: str = "scenes_simple") -> str:
    """One caption of a scene, chosen by the seed.

    Args:
        style: `train`, or `held_out`: templates that no training caption has.
        preset: `scenes_simple` knows two or three captions per scene, `scenes` many.
    """
    language = _language(style, preset)
    rng = Rng("caption", seed)
    return _fill(rng.choice(_templates(language, spec)), spec, language, rng)


def all_captions(preset: str = "scenes_simple", split: str | None = None) -> list[str]:
    """Every training-style caption of a small preset (of one split, if named), sorted: to embed them all once."""
    language = _language("train", preset)
    specs = (s for s in all_specs(preset) if split is None or split_of(s) == split)
    return sorted({_fill(t, s, language, Rng(0)) for s in specs for t in _templates(language, s)})


def _language(style: str, preset: str) -> Language:
    if style not in STYLES:
        raise ValueError(f"unknown caption style {style!r}; choose one of {', '.join(STYLES)}")
    rich = get_preset(preset).rich_captions
    return HELD_OUT if style == "held_out" else RICH if rich else SIMPLE


def _templates(language: Language, spec: SceneSpec) -> tuple[str, ...]:
    if spec.kind == "word":
        return language.word
    if spec.kind == "single":
        return language.single
    return language.listed if spec.relation is None else language.related


def _fill(template: str, spec: SceneSpec, language: Language, rng: Rng) -> str:
    """Put a scene into a template. Canonical order first, so that a scene has the same captions however it is told."""
    if spec.kind == "word":
        return template.format(word=spec.word, colour=spec.word_colour)
    spec = spec.ordered()
    phrases = [_phrase(g, language, rng) for g in spec.groups]
    is_ = "is" if spec.groups[0].count == 1 else "are"
    if spec.kind == "single":
        return template.format(**{"a": phrases[0], "is": is_})
    if spec.relation is None:
        return template.format(**{"list": ", ".join(phrases[:-1]) + " and " + phrases[-1], "is": is_})
    relation, inverse = spec.relation, INVERSE[spec.relation]
    if rng.below(2) and language is not SIMPLE:  # SIMPLE lists its one inverse template itself
        phrases, relation, inverse = phrases[::-1], inverse, relation
        is_ = "is" if spec.groups[1].count == 1 else "are"
    values = {"a": phrases[0], "b": phrases[1], "is": is_, "rel": relation, "inv": inverse}
    values["rel"], values["inv"] = (_word(values[k], language, rng) for k in ("rel", "inv"))
    return template.format(**values)


def _phrase(group: Group, language: Language, rng: Rng) -> str:
    size, shape = _word(group.size, language, rng), _word(group.shape, language, rng)
    if group.count > 1:
        plural = shape + ("es" if shape.endswith(("x", "s")) else "s")
        return f"{NUMBERS[group.count - 1]} {size} {group.colour} {plural}"
    article = "an" if size[0] in "aeiou" else "a"
    return f"{article} {size} {group.colour} {shape}"


def _word(word: str, language: Language, rng: Rng) -> str:
    return rng.choice(language.synonyms.get(word, (word,)))
