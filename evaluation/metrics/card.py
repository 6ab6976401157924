"""Evaluation cards: everything that must be known to read one number, and whether two numbers may share a column."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from files import read_json, write_json

SCHEMA = 2
# Two values with different answers here measured different things. The rest describes what was measured. What the
# real images, the reference and the prompts are is in `protocol`, as digests of contents: names and folders may differ.
MEASUREMENT = ("metric", "split", "n_real", "n_fake", "protocol")


@dataclass(frozen=True)
class Card:
    """One number and its circumstances.

    `low` and `high` are a 95 % interval where there is one; `real` is the value of real images in place of the
    generated ones, which is the best the instrument can show; `chance` that of images of other prompts; `noise` that
    of noise; `reconstruction` that of the model's own decoding of real images.
    """

    metric: str
    value: float | None
    split: str
    n_real: int
    n_fake: int
    seeds: str
    data: str
    data_fingerprint: str | None
    protocol: dict[str, Any] = field(default_factory=dict)  # extractor, checksum, resize rule, contents of the sets
    low: float | None = None
    high: float | None = None
    real: float | None = None
    chance: float | None = None
    noise: float | None = None
    reconstruction: float | None = None
    unit: str = ""
    higher_is_better: bool = False
    not_computed: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)  # sampler, steps, guidance, weights, precision
    model: dict[str, Any] = field(default_factory=dict)  # checkpoint, parameters, images seen, seconds
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, folder: str | Path) -> Path:
        """Writes `<split>-<metric>.json` into the folder and returns its path."""
        path = Path(folder) / f"{self.split}-{self.metric.replace('/', '-')}.json"
        write_json(path, asdict(self))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Card:
        """Reads a card; raises ValueError for another schema."""
        fields = read_json(path)
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            schema = repr(fields.get("schema"))[:40] if isinstance(fields, dict) else "none"
            raise ValueError(f"{path} has card schema {schema}, this version reads {SCHEMA}: evaluate again")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"{path} is no card: {str(error).split(') ')[-1]}") from None

    def protocol_id(self) -> str:
        """Eight hex digits of everything that two values in one column must share."""
        return digest({name: getattr(self, name) for name in MEASUREMENT})[:8]


def differences(a: Card, b: Card) -> list[str]:
    """Why two cards must not stand in one column; empty when they may."""
    pairs = ((name, getattr(a, name), getattr(b, name)) for name in MEASUREMENT)
    return [f"{name}: {one!r} and {other!r}" for name, one, other in pairs if one != other]


def digest(value: Any) -> str:
    """Twelve hex digits of a plain nested value; the same for equal values on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can move a number."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow", "timm", "torch-fidelity", "open_clip_torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
