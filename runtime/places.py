"""Which files, folders and pretrained models a configuration from somebody else may name.

Three ways lead in: the value lies where this repository keeps such things; the user has trained with it here, which is
remembered in `.cache/trained-with.txt`; or the user says `trust=VALUE` on the command line.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from files import read_bytes, write_text
from runtime import config

# An argument whose name has one of these words is a place, whichever class has it; what is new is so refused by itself.
PLACE_WORDS = frozenset(
    "dir root path paths file files folder folders weights ckpt checkpoint annotations backbone url uri".split()
)
# Pretrained models that are fetched by name: what conf/ names itself is known.
SOURCE_WORDS = frozenset({"model_id", "pretrained"})
# Further arguments of a class, by its own name: a package may hand it on under a shorter one.
SOURCES = {"OpenCLIPText": {"name"}, "OpenCLIP": {"model"}, "CLIP": {"model"}, "OpenCLIPTowers": {"model"}, "DINOv2": {"model"}}
KNOWN_SOURCES = ("text_encoder", "extractor", "clip")  # groups of conf/
MOST_REMEMBERED = 2000
URL = re.compile(r"[A-Za-z][\w+.-]*://")  # at the beginning: a path may hold the same further on


def claims(node: Any, target: str = "", key: str = "") -> Iterator[tuple[str, str, str]]:
    """(kind, argument, value) of every file, folder or pretrained model that a plain configuration names.

    kind is "source" for models, "below" for what callbacks write, which lies below the run directory, else "place".
    """
    if isinstance(node, dict):
        target = str(node.get("_target_", target))
        for name, value in node.items():
            yield from claims(value, target, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from claims(value, target, key)
    elif isinstance(node, str) or key == "allow_download" and node is True:
        own = SOURCES.get(target.rpartition(".")[2], set())
        if key in SOURCE_WORDS | own | {"allow_download"}:
            yield "source", key, str(node)
        elif PLACE_WORDS & set(key.lower().split("_")):
            yield "below" if target.startswith("callbacks.") else "place", key, node


def check_places(node: Any, trust: Sequence[str] = (), run: Path | None = None) -> None:
    """Raises ValueError for the first file, folder or model that a configuration from somebody else may not name.

    Args:
        node: plain values, resolved.
        trust: what the user has named on the command line.
        run: the run directory that the configuration belongs to; what is written goes there.
    """
    remembered: frozenset[tuple[str, str]] | None = None
    for kind, key, value in claims(node):
        if _is_known(kind, key, value, run) or _is_trusted(kind, value, trust):
            continue
        remembered = remembered_claims() if remembered is None else remembered
        if (key, _canonical(kind, value)) in remembered:
            continue
        shown = value if len(value) <= 200 else value[:197] + "..."
        what = "a place outside this repository" if kind != "source" else "none of the models that conf/ names"
        if key == "dir":  # written to: no word of the user is asked for
            raise ValueError(f"the configuration wants to write to {key}={shown!r}, {what} and the run directory: refused")
        word = "allow_download" if key == "allow_download" else shown
        raise ValueError(f"the configuration names {key}={shown}, {what}: refused; if you trust it, add \"trust='{word}'\"")


def check_folder(folder: Path, trust: Sequence[str] = (), *, itself: bool = False) -> None:
    """Raises ValueError for a link or a pipe in a folder that is going to be written to: it could lead anywhere.

    Args:
        itself: whether the folder too came from somebody else, or is the user's own choice.
    """
    top = [("", [str(folder)] if itself and folder.is_symlink() else [], [])]
    for at, folders, files in chain(top, os.walk(folder)):
        if Path(at).name == "wandb":  # W&B links its sessions' logs to a folder of its own, and never opens them again
            folders[:], files = [], [*folders, *files]
        for name in (*folders, *files):
            path = Path(at, name)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:  # another process of the run has just renamed it
                continue
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or _is_trusted("place", str(path), trust):
                continue
            if stat.S_ISLNK(mode) and _inside(_real(str(path)), _real(str(folder if at else folder.parent))):
                continue
            what = f"a link to {os.path.realpath(path)}" if stat.S_ISLNK(mode) else "no regular file"
            raise ValueError(f"{path} is {what}: refused; if it is yours, add \"trust='{path}'\"")


def remember(node: Any, run: Path | None = None) -> None:
    """Notes the places and models of a run that the user starts here, so that its checkpoints may name them again."""
    fresh = {(k, _canonical(kind, v)) for kind, k, v in claims(node) if not _is_known(kind, k, v, run)}
    fresh = {(key, value) for key, value in fresh if not any(c in value for c in "\n\r\t\0")}
    old = remembered_claims()
    if fresh <= old:
        return
    lines = [*(f"{k}\t{v}" for k, v in sorted(old - fresh)), *(f"{k}\t{v}" for k, v in sorted(fresh))]
    try:
        write_text(_ledger(), "".join(f"{line}\n" for line in lines[-MOST_REMEMBERED:]))
    except OSError as error:
        print(f"warning: {_ledger()} cannot be written ({error.strerror}): this run's checkpoints will ask for trust=", flush=True)


def remembered_claims() -> frozenset[tuple[str, str]]:
    """(argument, value) of what was trained with here."""
    try:
        lines = read_bytes(_ledger(), 2**22).decode("utf-8", "replace").split("\n")
    except (FileNotFoundError, ValueError):
        return frozenset()
    return frozenset((key, value) for key, tab, value in (line.partition("\t") for line in lines) if tab)


def trusted(value: Any) -> tuple[str, ...]:
    """`trust=` of a command line as a tuple: null, one name, or a list of them."""
    if value is None:
        return ()
    return (str(value),) if isinstance(value, (str, int, float, bool)) else tuple(str(one) for one in value)


def _ledger() -> Path:
    return config.REPO / ".cache" / "trained-with.txt"


def _is_known(kind: str, key: str, value: str, run: Path | None) -> bool:
    if kind == "source":
        return value in known_sources(str(config.CONF)).get(key, ())
    path = _real(value)
    repo = _real(str(config.REPO))
    if run is not None and _inside(path, _real(str(run))):
        return kind != "below" or path != _real(str(run))
    if key == "dir":
        return False
    if key == "ckpt":  # a name in zoo/ or runs/, or a file of theirs: read with the same care
        plain = not os.path.isabs(value) and not value.startswith("~") and ".." not in Path(value).parts
        return plain or any(_inside(path, repo / room) for room in ("runs", "zoo"))
    return _inside(path, repo / ".cache") and path != _real(str(_ledger()))


def _is_trusted(kind: str, value: str, trust: Sequence[str]) -> bool:
    if value in trust or kind == "source" and value == "True" and "allow_download" in trust:
        return True
    return kind != "source" and any(_real(value) == _real(word) for word in trust)


@functools.cache
def known_sources(conf: str) -> dict[str, frozenset[str]]:
    """Argument -> the names of pretrained models that conf/text_encoder, conf/extractor and conf/clip give it."""
    found: dict[str, set[str]] = {}
    for group in KNOWN_SOURCES:
        for path in sorted((Path(conf) / group).glob("*.yaml")):
            for kind, key, value in claims(yaml.safe_load(path.read_text(encoding="utf-8"))):
                if kind == "source":
                    found.setdefault(key, set()).add(value)
    return {key: frozenset(values) for key, values in found.items()}


def _canonical(kind: str, value: str) -> str:
    return value if kind == "source" else str(_real(value))


def _real(value: str) -> Path:
    """The place that a path leads to, links followed; relative ones count from here. A URL leads to no folder."""
    if URL.match(value):
        return Path("/dev/null", value)
    try:
        return Path(os.path.realpath(os.path.expanduser(value)))
    except (ValueError, OSError):  # a zero byte
        return Path("/dev/null/nowhere")


def _inside(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
