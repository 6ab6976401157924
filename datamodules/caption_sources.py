"""Which image has which captions: reads every folder layout that is understood into one list of samples.

Understood: metadata.jsonl / .csv / .tsv / .parquet (columns file_name and text), one .txt beside each image, COCO
captions JSON or a table of any name (both through `annotations`), and folders named after classes (through
`class_template`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import files
from datamodules.caption_tables import MAX_TEXT, Captions, add, lines, read_annotations
from datamodules.decode import EXTENSIONS

TABLE_NAMES = tuple(f"metadata{end}" for end in (".jsonl", ".csv", ".tsv", ".parquet"))
_NOT_CAPTIONS = frozenset(("readme", "license", "licence", "notice"))
LAYOUTS = (
    "metadata.jsonl/.csv/.tsv/.parquet with columns file_name and text; a .txt beside each image; "
    "COCO captions JSON or another table with data.annotations=FILE; "
    "folders named after classes with data.class_template='a photo of a {}'"
)
MAX_DEPTH = 200  # folders within folders: following links costs more with every one
TOO_DEEP = f"more than {MAX_DEPTH} folders deep"
ALLOW = "data.allow_outside=true"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: `file` relative to the root (POSIX), its captions (empty: none was found)."""

    file: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bad:
    """A file that is not used, why, and what the decoder said."""

    file: str
    reason: str
    detail: str = ""


@dataclass
class Source:
    """What a folder holds: its layout, the samples sorted by file, captions that name no image at all, and files that
    were refused before anything was read of them. Where it is not `captioned`, samples need no captions.
    """

    layout: str
    samples: list[Sample]
    orphans: list[str] = field(default_factory=list)
    refused: list[Bad] = field(default_factory=list)
    captioned: bool = True


def read_source(
    root: str | Path, annotations: str | None = None, class_template: str | None = None, allow_outside: bool = False
) -> Source:
    """Read the captions of a folder.

    Args:
        root: the image folder.
        annotations: COCO captions JSON, or a .csv/.tsv/.jsonl/.json/.parquet table; file names relative to root.
        class_template: caption with a `{}` for the class; used where the folder has no captions of its own.
        allow_outside: follow links that lead out of root.
    Raises: FileNotFoundError for a missing folder or file, ValueError for anything else wrong, each in one line.
    """
    root = Path(root)
    check_root(root)
    if class_template is not None:
        check_template(class_template)
    if annotations is not None:
        path = Path(annotations)
        if not path.exists():
            raise FileNotFoundError(f"data.annotations: there is no file {path}")
        return _read_annotations(path)
    tables = [root / name for name in TABLE_NAMES if os.path.lexists(root / name)]
    if len(tables) > 1:
        names = " and ".join(t.name for t in tables)
        raise ValueError(f"{root} holds {names}: keep one, or name it in data.annotations")
    if tables and not allow_outside and not files.inside(tables[0], root):
        raise ValueError(f"{tables[0]} is a link out of data.root: name the file in data.annotations, or add {ALLOW}")
    if tables:
        return _read_annotations(tables[0])
    return _read_folder(root, class_template, allow_outside)


def check_root(root: Path) -> None:
    """Raises FileNotFoundError or ValueError, in one line, for a root that is missing or no folder."""
    if not root.exists():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is a file, not a folder of images")


def check_template(template: str) -> None:
    """Raises ValueError unless a class's name can be put into the template, and nothing else has to be."""
    if not isinstance(template, str) or "{}" not in template:
        raise ValueError(f"data.class_template {template!r} has no {{}} for the class name")
    if any(brace in template.replace("{}", "") for brace in "{}"):
        raise ValueError(f"data.class_template {template!r} has other braces than {{}}, the place of the class name")


def _read_annotations(path: Path) -> Source:
    layout, captions, orphans = read_annotations(path)
    return Source(layout, _samples(captions), orphans)


def _samples(captions: Captions) -> list[Sample]:
    """Samples sorted by file: an index means the same image whatever the order of rows or directory entries."""
    found = []
    for file in sorted(captions):
        texts = captions[file]
        found.append(Sample(file, tuple(texts) if isinstance(texts, list) else (texts,) if texts else ()))
    return found


def _read_folder(root: Path, class_template: str | None, allow_outside: bool) -> Source:
    refused: list[Bad] = []
    there = list(walk(root, allow_outside, refused))
    images = [f for f in there if Path(f).suffix.lower() in EXTENSIONS]
    texts: dict[str, str] = {}
    for file in there:
        if file.lower().endswith(".txt") and Path(file).stem.lower() not in _NOT_CAPTIONS:
            if file[:-4] in texts:
                raise ValueError(f"{root}: {texts[file[:-4]]} and {file} are captions of the same image: remove one")
            texts[file[:-4]] = file
    if not there and not refused:
        raise ValueError(f"data.root: {root} is empty")
    if texts and any(f.rpartition(".")[0] in texts for f in images):
        return _from_sidecars(root, images, texts, allow_outside, refused)
    if class_template is not None and images:
        captions: Captions = {}
        for file in images:
            if "/" in file:
                add(captions, file, class_template.replace("{}", Path(file).parent.name.replace("_", " ")))
        if not captions:
            raise ValueError(f"data.class_template is set, but {root} has no folders: expected {root}/<class>/<image>")
        return Source("class folders", _samples(captions), refused=refused)
    ends = Counter(Path(f).suffix.lower() or "no ending" for f in there).most_common(5)
    seen = ", ".join(f"{n:,} {end}" for end, n in ends)
    seen += f", {len(refused):,} refused: {refused[0].file} is {refused[0].detail}" if refused else ""
    raise ValueError(f"no captions found in {root} (saw {seen}){_hint(root, there)}; understood are: {LAYOUTS}")


def _hint(root: Path, there: list[str]) -> str:
    """What the user may have meant: a folder further down that has a table, or a JSON file that lies about."""
    for file in there:
        if Path(file).name in TABLE_NAMES:
            return f"; is data.root={(root / file).parent} what you meant?"
        if file.endswith(".json"):
            return f"; is data.annotations={root / file} what you meant?"
        if file.endswith(".tar"):
            return f"; data=shards data.root={root} reads .tar shards"
    return ""


def _from_sidecars(
    root: Path, images: list[str], texts: dict[str, str], allow_outside: bool, refused: list[Bad]
) -> Source:
    captions: Captions = {}
    owners: dict[str, str] = {}
    for file in images:
        captions[file] = ""
        stem = file.rpartition(".")[0]
        if stem not in texts:
            continue
        if stem in owners:
            raise ValueError(f"{root}: {owners[stem]} and {file} share the captions {stem}.txt; rename or remove one")
        owners[stem] = file
        path = root / texts[stem]
        if not allow_outside and path.is_symlink() and not files.inside(path, root):
            refused.append(Bad(texts[stem], "outside_root", "a link out of data.root"))
            continue
        try:
            for line in "".join(lines(path, MAX_TEXT)).splitlines():
                add(captions, file, line)
        except (ValueError, FileNotFoundError) as error:
            refused.append(Bad(texts[stem], "unreadable", str(error).removeprefix(str(path)).lstrip(": ")))
    orphans = sorted(file for stem, file in texts.items() if stem not in owners)
    return Source("a .txt beside each image", _samples(captions), orphans, refused)


def walk(root: Path, allow_outside: bool = False, refused: list[Bad] | None = None) -> Iterator[str]:
    """All visible files under root, relative, in an order that is the same everywhere.

    A linked folder is entered once, so loops end; one outside root only with `allow_outside`. What is not entered is
    added to `refused`.
    """
    refused = [] if refused is None else refused
    top, seen, waiting = os.path.realpath(root), set(), [""]
    while waiting:
        folder = waiting.pop()
        if folder.count("/") >= MAX_DEPTH:
            refused.append(Bad(folder, "unreadable", TOO_DEEP))
            continue
        real = os.path.realpath(os.path.join(root, folder))
        if real in seen:
            continue
        seen.add(real)
        if not allow_outside and real != top and not real.startswith(top.rstrip("/") + "/"):
            refused.append(Bad(folder, "outside_root", "a link to a folder out of data.root"))
            continue
        try:
            entries = sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name)
        except OSError as error:
            refused.append(Bad(folder, "unreadable", error.strerror or "a folder that cannot be read"))
            continue
        inner = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            place = f"{folder}/{entry.name}" if folder else entry.name
            if _is_folder(entry):
                inner.append(place)
            else:
                yield place
        waiting += reversed(inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
