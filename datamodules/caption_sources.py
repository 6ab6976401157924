"""Which image has which captions: reads every folder layout that is understood into one list of samples.

Understood: metadata.jsonl / .csv / .tsv / .parquet (columns file_name and text), one .txt beside each image, COCO
captions JSON or a table of any name (both through `annotations`), and folders named after classes (through
`class_template`).
"""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.decode import EXTENSIONS

FILE_COLUMNS = ("file_name", "image", "path")
TEXT_COLUMNS = ("text", "caption", "captions")
TABLE_NAMES = tuple(f"metadata{end}" for end in (".jsonl", ".csv", ".tsv", ".parquet"))
_NOT_CAPTIONS = frozenset(("readme", "license", "licence", "notice"))
LAYOUTS = (
    "metadata.jsonl/.csv/.tsv/.parquet with columns file_name and text; a .txt beside each image; "
    "COCO captions JSON or another table with data.annotations=FILE; "
    "folders named after classes with data.class_template='a photo of a {}'"
)


@dataclass(frozen=True)
class Sample:
    """One image: `file` relative to the root (POSIX), its captions (empty: none was found)."""

    file: str
    captions: tuple[str, ...]


@dataclass
class Source:
    """What a folder holds: its layout, the samples sorted by file, and captions that name no image at all."""

    layout: str
    samples: list[Sample]
    orphans: list[str] = field(default_factory=list)


def read_source(root: str | Path, annotations: str | None = None, class_template: str | None = None) -> Source:
    """Read the captions of a folder.

    Args:
        root: the image folder.
        annotations: COCO captions JSON, or a .csv/.tsv/.jsonl/.json/.parquet table; file names relative to root.
        class_template: caption with a `{}` for the class; used where the folder has no captions of its own.
    Raises: FileNotFoundError for a missing folder or file, ValueError for anything else wrong, each in one line.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is a file, not a folder of images")
    if class_template is not None and "{}" not in class_template:
        raise ValueError(f"data.class_template {class_template!r} has no {{}} for the class name")
    if annotations is not None:
        return _read_annotations(Path(annotations))
    tables = [root / name for name in TABLE_NAMES if (root / name).is_file()]
    if len(tables) > 1:
        names = " and ".join(t.name for t in tables)
        raise ValueError(f"{root} holds {names}: keep one, or name it in data.annotations")
    if tables:
        return _read_annotations(tables[0])
    return _read_folder(root, class_template)


def clean(text: Any) -> str:
    """A caption as one line of composed Unicode; '' for None, NaN and the like."""
    if text is None or text != text:
        return ""
    return " ".join(unicodedata.normalize("NFC", str(text).replace("\0", "")).split())


def _read_annotations(path: Path) -> Source:
    if not path.is_file():
        raise FileNotFoundError(f"data.annotations: there is no file {path}")
    if path.suffix.lower() == ".json":
        content = _parse_json(path.read_bytes(), str(path))
        if isinstance(content, dict):
            return _from_coco(content, path)
        rows: Iterable[dict[str, Any]] = content
    else:
        rows = _table_rows(path)
    captions: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: expected an object with file_name and text, got {row!r:.60}")
        file, text = _column(row, FILE_COLUMNS, path), _column(row, TEXT_COLUMNS, path)
        captions[str(file)] += text if isinstance(text, (list, tuple)) else [text]
    if not captions:
        raise ValueError(f"{path} is empty: it should hold one row per image, with file_name and text")
    return Source(path.name, _samples(captions))


def _column(row: dict[str, Any], names: tuple[str, ...], path: Path) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(f"{path} needs a column {' or '.join(names)}; it has {', '.join(map(str, row))}")


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    end = path.suffix.lower()
    if end == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise ValueError(f"{path} needs pyarrow (pip install pyarrow), or save the table as CSV") from None
        yield from parquet.read_table(path).to_pylist()
    elif end == ".jsonl":
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if line.strip():
                yield _parse_json(line, f"{path}, line {number}")
    elif end in (".csv", ".tsv"):
        # keepends: a caption in quotes may run over several lines
        lines = read_text(path).splitlines(keepends=True)
        yield from csv.DictReader(lines, delimiter="\t" if end == ".tsv" else ",")
    else:
        raise ValueError(f"data.annotations: {path} should end in .json, .jsonl, .csv, .tsv or .parquet")


def read_text(path: Path) -> str:
    """UTF-8 with or without byte order mark; else Windows-1252, in which older tools on Windows write."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _parse_json(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from None


def _from_coco(content: dict[str, Any], path: Path) -> Source:
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ValueError(f"{path} is not COCO: expected the keys images and annotations, got {', '.join(content)}")
    if annotations and "caption" not in annotations[0]:
        raise ValueError(f"{path} holds no captions; COCO's caption files are called captions_*.json")
    orphans = []
    try:
        names = {image["id"]: image["file_name"] for image in images}
        captions: dict[str, list[Any]] = {name: [] for name in names.values()}
        for annotation in annotations:
            name = names.get(annotation["image_id"])
            if name is None:
                orphans.append(f"image_id {annotation['image_id']}")
            else:
                captions[name].append(annotation["caption"])
    except KeyError as error:
        raise ValueError(f"{path} is not COCO: an entry lacks the key {error}") from None
    return Source("COCO captions", _samples(captions), sorted(set(orphans)))


def _samples(captions: dict[str, list[Any]]) -> list[Sample]:
    """Cleaned samples sorted by file: an index means the same image whatever the order of rows or directory entries."""
    kept = ((file, tuple(filter(None, map(clean, texts)))) for file, texts in captions.items())
    return [Sample(file, texts) for file, texts in sorted(kept)]


def _read_folder(root: Path, class_template: str | None) -> Source:
    files = list(walk(root))
    images = [f for f in files if Path(f).suffix.lower() in EXTENSIONS]
    texts = {f[:-4]: f for f in files if f.lower().endswith(".txt") and Path(f).stem.lower() not in _NOT_CAPTIONS}
    if not files:
        raise ValueError(f"data.root: {root} is empty")
    if texts and any(f.rpartition(".")[0] in texts for f in images):
        return _from_sidecars(root, images, texts)
    if class_template is not None and images:
        captions = {f: [class_template.format(Path(f).parent.name.replace("_", " "))] for f in images if "/" in f}
        if not captions:
            raise ValueError(f"data.class_template is set, but {root} has no folders: expected {root}/<class>/<image>")
        return Source("class folders", _samples(captions))
    ends = Counter(Path(f).suffix.lower() or "no ending" for f in files).most_common(5)
    seen = ", ".join(f"{n:,} {end}" for end, n in ends)
    raise ValueError(f"no captions found in {root} (saw {seen}){_hint(root, files)}; understood are: {LAYOUTS}")


def _hint(root: Path, files: list[str]) -> str:
    """What the user may have meant: a folder further down that has a table, or a JSON file that lies about."""
    for file in files:
        if Path(file).name in TABLE_NAMES:
            return f"; is data.root={(root / file).parent} what you meant?"
        if file.endswith(".json"):
            return f"; is data.annotations={root / file} what you meant?"
    return ""


def _from_sidecars(root: Path, images: list[str], texts: dict[str, str]) -> Source:
    captions: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for file in images:
        stem = file.rpartition(".")[0]
        if stem not in texts:
            captions[file] = []
            continue
        if stem in owners:
            raise ValueError(f"{root}: {owners[stem]} and {file} share the captions {stem}.txt; rename or remove one")
        owners[stem] = file
        captions[file] = read_text(root / texts[stem]).splitlines()
    orphans = sorted(file for stem, file in texts.items() if stem not in owners)
    return Source("a .txt beside each image", _samples(captions), orphans)


def walk(root: Path) -> Iterator[str]:
    """All visible files under root, relative, sorted; a linked folder is entered once, so loops end."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in sorted(files):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()
