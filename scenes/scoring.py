"""Compares a spec with what the parser read: one number in [0, 1] per skill, and their means with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import sqrt

from scenes.grammar import Group, SceneSpec
from scenes.parser import ParsedObject, ParsedScene

SKILLS = ("presence", "count", "colour", "shape", "size", "binding", "relation", "spelling", "letters", "all_correct")
# The cost of a wrong attribute; a little uneven, so that ties are broken the same way whatever the order of objects.
_COST = {"shape": 1.03, "colour": 1.02, "size": 1.0}
_MAX_MATCHED = 8  # objects that the exact assignment looks at

_HOLDS: dict[str, Callable[[ParsedObject, ParsedObject], bool]] = {
    "left of": lambda a, b: a.x < b.x,
    "right of": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
}
Pair = tuple[Group, int, ParsedObject]  # expected object, number of its group, the object that was read for it


def score(spec: SceneSpec, parsed: ParsedScene) -> dict[str, float]:
    """The skills of one picture, each in [0, 1]; a skill that does not apply to the spec is absent.

    Objects: `presence` share of expected objects found (colour or shape must be right), `count` whether their total
    is right, `colour`, `shape`, `size` and `binding` (all three) shares of the found ones, 0 when none is found,
    `relation` whether it holds between all found ones of both groups, `all_correct` all of it and nothing malformed.
    Words: `presence` whether a word is seen, `colour`, `spelling` all letters, `letters` share of them, `all_correct`.

    Source: the object-level checks of Ghosh et al. 2023 (GenEval), section 3.
    """
    return _score_word(spec, parsed) if spec.kind == "word" else _score_objects(spec, parsed)


def diagnostics(spec: SceneSpec, parsed: ParsedScene) -> dict[str, float]:
    """What is not a skill: `num_extra`, `count_error`, `debris`, `malformed`, `word_seen`, and `relation_given_groups`.

    The last one is `relation` where objects of both groups were found, and absent elsewhere.
    """
    pairs = _match(spec, parsed)
    expected = sum(g.count for g in spec.groups)
    values = {
        "num_extra": float(len(parsed.objects) - len(pairs)),
        "count_error": float(abs(len(parsed.objects) - expected)),
        "debris": parsed.debris,
        "malformed": float(parsed.malformed),
        "word_seen": float(parsed.word is not None),
    }
    if spec.relation and {i for _, i, _ in pairs} == {0, 1}:
        values["relation_given_groups"] = _relation(spec, pairs)
    return values


def _score_word(spec: SceneSpec, parsed: ParsedScene) -> dict[str, float]:
    seen = parsed.word or ""
    right = sum(a == b for a, b in zip(spec.word, seen))
    values = {
        "presence": float(parsed.word is not None),
        "colour": float(parsed.word_colour == spec.word_colour),
        "spelling": float(seen == spec.word),
        "letters": right / max(len(spec.word), len(seen)),
    }
    values["all_correct"] = float(values["colour"] == values["spelling"] == 1 and parsed.malformed == 0)
    return values


def _score_objects(spec: SceneSpec, parsed: ParsedScene) -> dict[str, float]:
    pairs = _match(spec, parsed)
    expected = sum(g.count for g in spec.groups)
    right = [
        {"colour": o.colour == g.colour, "shape": _shape_right(g, o), "size": o.size == g.size} for g, _, o in pairs
    ]
    values = {"presence": len(pairs) / expected, "count": float(len(parsed.objects) == expected)}
    for skill in ("colour", "shape", "size"):
        values[skill] = sum(r[skill] for r in right) / max(len(right), 1)
    values["binding"] = sum(all(r.values()) for r in right) / max(len(right), 1)
    if spec.relation:
        values["relation"] = _relation(spec, pairs)
    values["all_correct"] = float(all(v == 1 for v in values.values()) and parsed.malformed == 0)
    return values


def _relation(spec: SceneSpec, pairs: Sequence[Pair]) -> float:
    """1 when the relation holds between the centres of every two found objects of the two groups, else 0."""
    a, b = ([o for _, i, o in pairs if i == group] for group in (0, 1))
    return float(bool(a and b) and all(_HOLDS[spec.relation](p, q) for p in a for q in b))


def _shape_right(group: Group, o: ParsedObject) -> bool:
    return o.shape == group.shape and not o.malformed


def _match(spec: SceneSpec, parsed: ParsedScene) -> list[Pair]:
    """Give each expected object the one that was read for it, so that as few attributes as possible are wrong.

    An object with neither the colour nor the shape of an expected one is never taken for it. Where a generator drew
    very many objects, those are considered that resemble the spec most. Exact, by dynamic programming over subsets.
    """
    expected = [(g, i) for i, g in enumerate(spec.groups) for _ in range(g.count)]
    cost = [[_cost(g, o) for o in parsed.objects] for g, _ in expected]
    # In an order that does not depend on where objects stand in the picture's scan.
    order = sorted(range(len(parsed.objects)), key=lambda k: (min((c[k] for c in cost), default=0), k))[:_MAX_MATCHED]
    missing = 10.0  # dearer than any mismatch, so as many as possible are matched

    @lru_cache(maxsize=None)
    def best(i: int, used: int) -> tuple[float, tuple[int, ...]]:
        if i == len(expected):
            return 0.0, ()
        rest = best(i + 1, used)
        options = [(rest[0] + missing, (-1, *rest[1]))]
        for j, k in enumerate(order):
            if not used >> j & 1 and cost[i][k] < missing:
                rest = best(i + 1, used | 1 << j)
                options.append((rest[0] + cost[i][k], (k, *rest[1])))
        return min(options)

    return [(g, i, parsed.objects[k]) for (g, i), k in zip(expected, best(0, 0)[1]) if k >= 0]


def _cost(group: Group, o: ParsedObject) -> float:
    wrong_shape, wrong_colour = not _shape_right(group, o), o.colour != group.colour
    if wrong_shape and wrong_colour:
        return 10.0
    return _COST["shape"] * wrong_shape + _COST["colour"] * wrong_colour + _COST["size"] * (o.size != group.size)


def aggregate(scores: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Per skill: `mean`, `n` (pictures it applies to) and `low`, `high`, the Wilson 95 % interval of the mean.

    Source: Wilson 1927; for shares within a picture the interval is conservative.
    """
    rows = {}
    for skill in sorted({k for s in scores for k in s}, key=lambda k: (SKILLS.index(k) if k in SKILLS else 99, k)):
        values = [s[skill] for s in scores if skill in s]
        low, high = wilson(sum(values), len(values))
        rows[skill] = {"mean": sum(values) / len(values), "n": len(values), "low": low, "high": high}
    return rows


def aggregate_by_kind(
    specs: Sequence[SceneSpec], scores: Sequence[dict[str, float]]
) -> dict[str, dict[str, dict[str, float]]]:
    """`aggregate` for each kind of scene (`single`, `pair`, `triple`, `word`) among the specs."""
    kinds = sorted({s.kind for s in specs})
    return {kind: aggregate([x for s, x in zip(specs, scores) if s.kind == kind]) for kind in kinds}


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson interval of a share; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p, d = min(successes / n, 1.0), 1 + z * z / n
    centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((centre - half) / d, 0.0), min((centre + half) / d, 1.0)
