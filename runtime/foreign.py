"""Configurations that travel: in a checkpoint, a run directory or the zoo. Read without trust, bounded in time and memory.

Such a configuration may refer to its own values (`${a.b}`, `${..a}`), to places in this checkout (`${repo:a/b}`), and to a
value that may be missing (`${oc.select:a.b,3}`). Every other interpolation, such as `${oc.env:NAME}`, is refused before
OmegaConf sees it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from files import read_bytes

MAX_BYTES = 2**19
MAX_NODES = 20_000  # values, after everything that they refer to has been put in their place
MAX_CHARACTERS = 2**20  # of all texts, likewise
MAX_DEPTH = 30  # of containers and references, one inside the other
MAX_HOPS = 20_000  # references followed on the way to others

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_PATH = rf"{_NAME}(?:\.{_NAME})*"
INTERPOLATION = re.compile(
    rf"\$\{{(?:(?P<dots>\.*)(?P<node>{_PATH})"
    rf"|repo:(?P<place>[\w./-]*)"
    rf"|oc\.select:(?P<maybe>{_PATH}), ?(?:null|-?\d{{1,9}}))\}}"
)


def read_foreign_config(path: str | Path) -> DictConfig:
    """The configuration of a YAML file that somebody else may have written.

    Raises: FileNotFoundError, or ValueError in one line, for what is damaged, too large, or refers to other things than
        its own values and places in this checkout.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8")
        _check_yaml(text, path)
        config = OmegaConf.create(text)
        plain = OmegaConf.to_container(config, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ValueError(f"{path} is not valid YAML{where}: {' '.join(str(why).split())[:200]}") from None
    return foreign_config(plain, path)


def foreign_config(value: Any, where: str | Path) -> DictConfig:
    """The configuration that a checkpoint brought as plain values. Raises ValueError as `read_foreign_config`."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: its configuration is a {type(value).__name__}, not a table of settings")
    _Plain(str(where)).check(value, (), 0)
    try:
        _Expanded(value, str(where)).of((), value)
    except RecursionError:
        raise ValueError(f"{where}: its configuration has references that lead in a circle") from None
    return OmegaConf.create(value)


def settle(config: DictConfig) -> None:
    """Puts values in the place of interpolations that may not travel, such as an environment variable of this machine.

    To be called on a new run's configuration, so that its own checkpoints can be read again.
    """
    def visit(node: Any) -> None:
        for key in range(len(node)) if OmegaConf.is_list(node) else list(node.keys()):
            raw = node._get_node(key)
            if OmegaConf.is_config(raw) and not raw._is_interpolation() and not raw._is_none():
                visit(raw)
            elif raw is not None and raw._is_interpolation() and _left(raw._value()):
                node[key] = OmegaConf.to_container(node[key], resolve=True) if OmegaConf.is_config(node[key]) else node[key]

    visit(config)


def _left(text: str) -> bool:
    """Whether a text has interpolations that may not travel."""
    for found in INTERPOLATION.finditer(text):
        place = found["place"] or ""
        if place.startswith("/") or ".." in place.split("/"):
            return True
        if found.start() and text[found.start() - 1] == "\\":  # an escape: what is left would be read again later
            return True
    return "${" in INTERPOLATION.sub("", text)


def _check_yaml(text: str, path: str | Path) -> None:
    """Refuses aliases, tags, and what is nested or long beyond measure, on the parser's events: nothing is built yet."""
    depth = 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"{path}: anchors and aliases (& and *) are refused: they can make it grow without end")
        if getattr(event, "tag", None):
            raise ValueError(f"{path}: the YAML tag {event.tag[:60]!r} is refused: settings are plain values")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or count > 2 * MAX_NODES:
            raise ValueError(f"{path} is nested too deep, or has more than {MAX_NODES:,} values")


class _Plain:
    """Checks types, depth and number of values, and that every interpolation may travel."""

    def __init__(self, where: str) -> None:
        self.where, self.count = where, 0

    def check(self, value: Any, path: tuple[Any, ...], depth: int) -> None:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise ValueError(f"{self.where}: its configuration is nested too deep, or has more than {MAX_NODES:,} values")
        if isinstance(value, dict):
            for key, child in value.items():
                if not isinstance(key, (str, int)) or len(str(key)) > 200 or "${" in str(key):
                    raise ValueError(f"{self.where}: {str(key)[:60]!r} at {dotted(path)} is no name of a setting")
                self.check(child, (*path, key), depth + 1)
        elif isinstance(value, list):
            for i, child in enumerate(value):
                self.check(child, (*path, i), depth + 1)
        elif isinstance(value, str):
            if _left(value):
                what = f"{dotted(path)} is {value[:100]!r}"
                raise ValueError(f"{self.where}: {what}: only its own settings and ${{repo:…}} may be referred to")
        elif isinstance(value, int):
            if abs(value) >= 2**63:
                raise ValueError(f"{self.where}: the number at {dotted(path)} is too large")
        elif value is not None and not isinstance(value, float):
            raise ValueError(f"{self.where}: {dotted(path)} is a {type(value).__name__}, not a plain value")


class _Expanded:
    """How large a configuration becomes once references are followed, without following any of them twice."""

    def __init__(self, root: dict[str, Any], where: str) -> None:
        self.root, self.where = root, where
        self.known: dict[tuple[Any, ...], tuple[int, int, int]] = {}
        self.active: set[tuple[Any, ...]] = set()
        self.hops = 0

    def of(self, path: tuple[Any, ...], value: Any) -> tuple[int, int, int]:
        """(values, characters, height) of what stands at a path. Raises ValueError for circles and explosions."""
        if path in self.known:
            return self.known[path]
        if path in self.active:
            raise ValueError(f"{self.where}: {dotted(path)} refers to itself")
        if len(self.active) > 4 * MAX_DEPTH:
            raise ValueError(f"{self.where}: {dotted(path)}: one reference leads to another too often")
        self.active.add(path)
        nodes, characters, height = 1, len(value) if isinstance(value, str) else 0, 0
        for at, child in self._parts(path, value):
            n, c, h = self.of(at, child)
            nodes, characters, height = nodes + n, characters + c, max(height, h + 1)
            if nodes > MAX_NODES or characters > MAX_CHARACTERS or height > MAX_DEPTH:
                raise ValueError(f"{self.where}: {dotted(path)} grows beyond measure once its references are followed")
        self.active.remove(path)
        self.known[path] = nodes, characters, height
        return self.known[path]

    def _parts(self, path: tuple[Any, ...], value: Any) -> list[tuple[tuple[Any, ...], Any]]:
        if isinstance(value, dict):
            return [((*path, k), v) for k, v in value.items()]
        if isinstance(value, list):
            return [((*path, i), v) for i, v in enumerate(value)]
        if not isinstance(value, str):
            return []
        targets = (self._target(path, found) for found in INTERPOLATION.finditer(value))
        return [target for target in targets if target is not None]

    def _target(self, path: tuple[Any, ...], found: re.Match[str]) -> tuple[tuple[Any, ...], Any] | None:
        """(path, value) that a reference at a path leads to; None where there is nothing, or a place in the checkout."""
        name, dots = found["node"] or found["maybe"], len(found["dots"] or "")
        if name is None or dots > len(path):
            return None
        return self._find((path[:-dots] if dots else ()), name.split("."))

    def _find(self, start: tuple[Any, ...], names: list[str]) -> tuple[tuple[Any, ...], Any] | None:
        path, value = start, self.root
        self.hops += 1
        if self.hops > MAX_HOPS:
            raise ValueError(f"{self.where}: its configuration has too many references")
        for key in start:
            value = value[key]
        for i, name in enumerate(names):
            for _ in range(MAX_DEPTH):  # the way may lead through a reference
                found = INTERPOLATION.fullmatch(value) if isinstance(value, str) else None
                target = self._target(path, found) if found else None
                if target is None:
                    break
                path, value = target
            if isinstance(value, dict):
                key: Any = next((k for k in value if str(k) == name), None)
            else:
                key = int(name) if isinstance(value, list) and name.isdigit() and int(name) < len(value) else None
            if key is None:
                return None
            path, value = (*path, key), value[key]
        return path, value


def dotted(path: tuple[Any, ...]) -> str:
    """A path as it is typed: model.stages.base."""
    return ".".join(str(key)[:40] for key in path)[:200] or "the whole"
