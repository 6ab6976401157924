"""Checks a metrics.json that may come from somebody else: an entry of the wrong kind is refused in a line that names it.

The rest of the page relies on it. Numbers that cannot be drawn (NaN, infinite, beyond 1e30) are taken out and named
among what was not computed; text loses what no page can show; names of splits and metrics cannot be paths.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 40
MAX_NAME = 100  # characters of a split's or metric's name, which are parts of file names
LARGEST, SMALLEST = 1e30, 1e-30
CONTROLS = ("low", "high", "real", "chance", "noise", "reconstruction")

Check = Callable[[Any, str], Any]


def checked(data: Any, where: str) -> dict[str, Any]:
    """The same result, plain and complete. Raises: ValueError in one line, for instance `FILE: splits iid n should be …`."""
    try:
        found = RESULT(plain(data), "it")
    except Wrong as wrong:
        raise ValueError(f"{where}: {wrong}: not what evaluate.py writes") from None
    for split in found["splits"].values():
        _take_out(split)
    return {key: value for key, value in found.items() if value is not None}


class Wrong(ValueError):
    """An entry that is not what it should be."""


def wrong(value: Any, place: str, expected: str) -> Wrong:
    return Wrong(f"{place} should be {expected}, not {reprlib.repr(value)}")


def plain(value: Any, depth: int = 0) -> Any:
    """The same with text that can be shown. Raises: ValueError for what is nested too deep."""
    if depth > MAX_DEPTH:
        raise Wrong("it is nested too deep")
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in value)
    if isinstance(value, dict):
        return {plain(key): plain(nested, depth + 1) for key, nested in value.items()}
    return [plain(nested, depth + 1) for nested in value] if isinstance(value, list) else value


def text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise wrong(value, place, "text")
    return value


def name(value: Any, place: str) -> str:
    right = isinstance(value, str) and 0 < len(value.encode()) <= MAX_NAME and ".." not in value
    if not right or set(value) & set("\\*?[]\n"):
        raise wrong(value, place, f"a name of at most {MAX_NAME} characters")
    return value


def split_name(value: Any, place: str) -> str:
    if "/" in name(value, place):
        raise wrong(value, place, "a name, which is no path")
    return value


def boolean(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(value, place, "true or false")
    return value


def whole(value: Any, place: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise wrong(value, place, "a whole number")
    return value


def number(value: Any, place: str) -> float | int:
    """A number; `_take_out` looks later whether it can be drawn."""
    if type(value) not in (int, float):
        raise wrong(value, place, "a number")
    return value if value == 0 or not abs(value) < SMALLEST else 0.0


def drawable(value: Any, place: str) -> float | int:
    if not _can_be_drawn(number(value, place)):
        raise wrong(value, place, f"a number of at most {LARGEST:g}")
    return number(value, place)


def positive(value: Any, place: str) -> float | int:
    if drawable(value, place) <= 0:
        raise wrong(value, place, "above 0")
    return value


def not_negative(value: Any, place: str) -> float | int:
    if drawable(value, place) < 0:
        raise wrong(value, place, "at least 0")
    return value


def anything(value: Any, place: str) -> Any:
    return value


def optional(check: Check) -> Check:
    return lambda value, place: None if value is None else check(value, place)


def either(*checks: Check) -> Check:
    def check(value: Any, place: str) -> Any:
        for one in checks:
            try:
                return one(value, place)
            except Wrong as error:
                last = error
        raise last

    return check


def list_of(check: Check, length: int | None = None) -> Check:
    def each(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise wrong(value, place, "a list" + (f" of {length}" if length else ""))
        return [check(nested, f"{place}[{i}]") for i, nested in enumerate(value)]

    return each


def map_of(check: Check, key: Check = text) -> Check:
    def each(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(value, place, "an object")
        return {key(k, f"{place}: a key"): check(nested, f"{place} {k[:60]}") for k, nested in value.items()}

    return each


def fields(required: dict[str, Check], others: dict[str, Check], rest: Check = anything) -> Check:
    """An object with some keys; those of `others` may be missing, and further ones are what `rest` says."""

    def each(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(value, place, "an object")
        for key in required:
            if key not in value:
                raise Wrong(f"{place} lacks {key}")
        known = others | required
        place = "" if place == "it" else f"{place} "
        return {k: known.get(k, rest)(nested, f"{place}{k[:60]}") for k, nested in value.items()}

    return each


def _confusion(value: Any, place: str) -> Any:
    """Square counts, with the names of their rows where those are known."""
    labels = value.get("labels") if isinstance(value, dict) else None
    counts = value.get("counts") if isinstance(value, dict) else value
    width = len(counts[0]) if isinstance(counts, list) and counts and isinstance(counts[0], list) else 0
    list_of(list_of(not_negative, width))(counts, place)
    if counts and (not width or len(counts) > width):
        raise wrong(counts, place, "a square list of lists")
    if labels is not None and len(list_of(either(text, whole))(labels, f"{place} labels")) != width:
        raise wrong(labels, f"{place} labels", f"{width} names")
    return value


def _curve(value: Any, place: str) -> Any:
    if not isinstance(value, dict) or not value.get("n"):
        return {}
    checks = {"n": list_of(positive), "value": list_of(drawable)}
    found = fields(checks, {"fit": optional(list_of(drawable, 2)), "r2": drawable})(value, place)
    if len(found["n"]) != len(found["value"]):
        raise wrong(found["value"], f"{place} value", f"{len(found['n'])} numbers, as many as n")
    return found


def _details(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(value, place, "an object")
    found = {}
    for key, nested in value.items():
        check = DETAILS.get(key, anything)
        check = _confusion if key.endswith("_confusion") else _curve if key.endswith("_curve") else check
        found[key] = check(nested, f"{place} {key[:60]}")
    return found


def _histograms(value: Any, place: str) -> dict[str, Any]:
    """Numbers by name; a name without any is left out."""
    return {key: numbers for key, numbers in map_of(list_of(drawable))(value, place).items() if numbers}


def _likelihood(value: Any, place: str) -> dict[str, Any] | None:
    found = fields({"hist": _histograms, "column": text}, {})(value, place)
    return found if found["hist"] else None


def _point(value: Any, place: str) -> dict[str, Any]:
    """Numbers of a sweep at one value of its option; those that are null are left out."""
    found = fields({"x": either(drawable, text)}, {"nfe": optional(not_negative)}, optional(drawable))(value, place)
    return {key: nested for key, nested in found.items() if nested is not None}


PAIR = fields(
    {"fake": whole, "train": whole},
    {"feature_distance": optional(drawable), "pixel_distance": optional(drawable), "train_png": optional(text)},
)
DETAILS: dict[str, Check] = {
    "scores": optional(list_of(map_of(drawable))),
    "wrong": optional(list_of(optional(list_of(text)))),
    "read": optional(list_of(anything)),
    "memorisation": optional(fields({}, {"pairs": optional(list_of(PAIR)), "hist": optional(_histograms)})),
    "likelihood": optional(_likelihood),
}
ROW = fields(
    {"value": number, "higher_is_better": boolean},
    {"unit": text, "section": text, "headline": boolean, "protocol": optional(map_of(anything)),
     "protocol_id": optional(text), "n": optional(drawable), **dict.fromkeys(CONTROLS, optional(number))},
)  # fmt: skip
ENTRIES = fields(
    {"n": whole},
    {"samples": optional(text), "real": optional(text), "captions": optional(list_of(optional(text))),
     "labels": optional(list_of(optional(whole))), "seeds": optional(list_of(optional(whole))),
     "reference_split": optional(text), "holdout_split": optional(text), "n_train": optional(whole),
     "metrics": map_of(ROW, name), "not_computed": map_of(text), "details": _details},
)  # fmt: skip
SWEEP = fields(
    {"option": text, "split": text, "n": whole, "metrics": map_of(text), "points": list_of(_point)}, {"series": optional(text)}
)
def _split(value: Any, place: str) -> dict[str, Any]:
    found = ENTRIES(value, place)
    for columns in ("captions", "labels"):
        if found.get(columns) and len(found[columns]) != found["n"]:
            raise Wrong(f"{place} has {len(found[columns])} {columns} for n={found['n']}")
    return found


COST = fields({}, {"device": optional(text), **dict.fromkeys(("parameters", "images_seen", "batch_size"), optional(whole)),
                   **dict.fromkeys(("flops_per_image", "nfe", "sec_per_image", "sec_per_image_min", "train_sec"),
                                   optional(not_negative))})  # fmt: skip
RESULT = fields(
    {"name": text, "splits": map_of(_split, split_name)},
    {"family": optional(text), "title": optional(text), "date": optional(text), "commit": optional(text),
     "reproduce": optional(text), "notes": optional(list_of(text)), "facts": optional(map_of(anything)),
     "sampling": optional(map_of(anything)), "model": optional(map_of(anything)), "data": optional(map_of(anything)),
     "cost": optional(COST), "sweeps": optional(list_of(SWEEP))},
)  # fmt: skip


def _can_be_drawn(value: float) -> bool:
    return abs(value) <= LARGEST  # False for NaN


def _take_out(split: dict[str, Any]) -> None:
    """Completes a split, and moves metrics whose value cannot be drawn to what was not computed."""
    rows, lacking = split.setdefault("metrics", {}), split.setdefault("not_computed", {})
    split.setdefault("details", {})
    for metric, row in list(rows.items()):
        row["protocol"], row["protocol_id"] = row.get("protocol") or {}, row.get("protocol_id")
        for control in CONTROLS:
            if row.get(control) is not None and not _can_be_drawn(row[control]):
                del row[control]
        if "low" in row or "high" in row:
            row |= {"low": row.get("low"), "high": row.get("high")}
            if row["low"] is None or row["high"] is None:  # half an interval is none
                del row["low"], row["high"]
        if not _can_be_drawn(row["value"]):
            lacking[metric] = f"its value is {reprlib.repr(row['value'])}"
            del rows[metric]
