"""Tables of captions: JSON lines, CSV, TSV, Parquet, JSON and COCO, read row by row.

Nothing is skipped: a row that cannot be understood is refused with the file and its line.
"""

from __future__ import annotations

import codecs
import csv
import reprlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import files
from datamodules.decode import EXTENSIONS
from datamodules.progress import Progress

FILE_COLUMNS = ("file_name", "image", "path")
TEXT_COLUMNS = ("text", "caption", "captions")
MAX_TABLE_BYTES = 4 * 2**30
MAX_JSON_BYTES = 2**29  # is held whole; JSON lines are not
MAX_LINE_BYTES = MAX_TEXT = 2**20
MAX_ROWS = 100_000_000  # of a Parquet file, which can say the same a billion times in a kilobyte

Captions = dict[str, str | list[str]]  # cleaned, by file; a list where there are several
Row = tuple[int, Any, Any]  # number, file name, text


def read_annotations(path: Path) -> tuple[str, Captions, list[str]]:
    """The layout of a file of captions, the captions by file name, and the rows that name no image.

    Raises: FileNotFoundError or ValueError in one line, with the row or line.
    """
    if path.suffix.lower() != ".json":
        return path.name, *_read_rows(path, *_rows(path))
    content = files.read_json(path, MAX_JSON_BYTES)
    if isinstance(content, dict):
        return "COCO captions", *_read_coco(content, path)
    if not isinstance(content, list):
        raise ValueError(f"{path} should hold COCO captions or a list of rows, got {reprlib.repr(content)}")
    return path.name, *_read_rows(path, "row", _objects("row", path, enumerate(content, start=1)))


def _read_rows(path: Path, unit: str, rows: Iterator[Row]) -> tuple[Captions, list[str]]:
    captions: Captions = {}
    orphans: list[str] = []
    progress = Progress(f"{files.printable(path)}: read {{}} rows")
    number = 0
    for number, file, text in rows:
        if not isinstance(file, str):
            raise ValueError(f"{path}, {unit} {number}: a file name should be text, got {reprlib.repr(file)}")
        for one in text if isinstance(text, list) else (text,):
            if type(one) not in _TEXTS:
                raise ValueError(f"{path}, {unit} {number}: a caption should be text, got {reprlib.repr(one)}")
            add(captions, file, one) if file else orphans.append(f"{path.name}, {unit} {number}")
        if text == []:
            captions.setdefault(file, "")
        if not number & 0x3FFF:
            progress.tell(number)
    if not number:
        raise ValueError(f"{path} is empty: it should hold one row per image, with file_name and text")
    return captions, orphans


_TEXTS = frozenset((str, int, float, type(None)))


def add(captions: Captions, file: str, text: Any) -> None:
    """Notes one caption of a file; an empty one only says that the file is there."""
    text, known = clean(text), captions.get(file)
    if not known:
        captions[file] = text
    elif text:
        if isinstance(known, str):
            captions[file] = known = [known]
        known.append(text)


def clean(text: Any) -> str:
    """A caption as one line of composed Unicode; '' for None, NaN and the like."""
    if text is None or text != text:
        return ""
    text = str(text).replace("\0", "")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())  # half a surrogate pair: ?
    return " ".join(text.split())


def lines(path: Path, most: int = MAX_TABLE_BYTES) -> Iterator[str]:
    """Lines of text in UTF-8 with or without byte order mark; of a line that is none, Windows-1252, in which older
    tools on Windows write. Raises: FileNotFoundError or ValueError in one line.
    """
    with files.open_regular(path, most) as file:
        start = file.read(2**16)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{path} is written in UTF-16: save it as UTF-8")
        if b"\r" in start and b"\n" not in start:
            raise ValueError(f"{path} ends its lines as old Macs did: save it with Unix or Windows line ends")
        file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{path}, line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            try:
                yield line.decode()
            except UnicodeDecodeError:
                yield line.decode("cp1252", errors="replace")


def _rows(path: Path) -> tuple[str, Iterator[Row]]:
    """What the rows are called in messages, and the rows."""
    end = path.suffix.lower()
    if end == ".jsonl":
        numbered = enumerate(lines(path), start=1)
        parsed = ((n, files.parse_json(line, f"{path}, line {n}")) for n, line in numbered if not line.isspace())
        return "line", _objects("line", path, parsed)
    if end in (".csv", ".tsv"):
        return "line", _separated(path, "\t" if end == ".tsv" else ",")
    if end == ".parquet":
        return "row", _parquet(path)
    raise ValueError(f"data.annotations: {path} should end in .json, .jsonl, .csv, .tsv or .parquet")


def _objects(unit: str, path: Path, rows: Iterator[tuple[int, Any]]) -> Iterator[Row]:
    for number, row in rows:
        if not isinstance(row, dict):
            got = reprlib.repr(row)
            raise ValueError(f"{path}, {unit} {number}: expected an object with file_name and text, got {got}")
        for file in FILE_COLUMNS:  # not by a function: tables have millions of rows
            if file in row:
                break
        else:
            _column(row, FILE_COLUMNS, f"{path}, {unit} {number}")
        for text in TEXT_COLUMNS:
            if text in row:
                break
        else:
            _column(row, TEXT_COLUMNS, f"{path}, {unit} {number}")
        yield number, row[file], row[text]


def _column(there: Collection[str], names: tuple[str, ...], where: str) -> str:
    """The first of some names that is there. Raises: ValueError that says what is."""
    for name in names:
        if name in there:
            return name
    raise ValueError(f"{where} needs a column {' or '.join(names)}; it has {_some(there)}")


def _some(names: Iterable[str]) -> str:
    return files.printable(", ".join(name[:40] for name in islice(names, 10))) or "nothing"


def _separated(path: Path, delimiter: str) -> Iterator[Row]:
    """Rows of a table with a header. A quote that is not closed would make one caption of all rows up to the next."""
    record: list[str] = []  # the lines of the row that is being read

    def remembered() -> Iterator[str]:
        for line in lines(path):
            record.append(line)
            yield line

    reader = csv.reader(remembered(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    file = text = 0
    while True:
        record.clear()
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise ValueError(f"{path}, line {number}: {_QUOTES.get(str(error), error)}") from None
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            file = header.index(_column(header, FILE_COLUMNS, str(path)))
            text = header.index(_column(header, TEXT_COLUMNS, str(path)))
            if twice := [name for name in (header[file], header[text]) if header.count(name) > 1]:
                raise ValueError(f"{path} has the column {twice[0]} twice")
            continue
        if len(row) != len(header):
            cells = f"{len(row)} fields, and the header has {len(header)}"
            raise ValueError(f"{path}, line {number} has {cells}: is a quote or a separator missing?")
        if len(record) > 1 and any(_is_row(line, delimiter, file) for line in record[1:]):
            raise ValueError(f"{path}, line {number}: a quote is opened and not closed before other rows begin")
        yield number, row[file], row[text]


_OPEN = "a quote is opened and not closed"
_QUOTES = {
    "unexpected end of data": _OPEN,
    "',' expected after '\"'": f"{_OPEN}, or one inside a text is not written twice",
    "'\t' expected after '\"'": f"{_OPEN}, or one inside a text is not written twice",
    "field larger than field limit (131072)": f"a field has more than 131,072 characters: {_OPEN}?",
}


def _is_row(line: str, delimiter: str, file: int) -> bool:
    """Whether a line inside a caption looks like a row of its own: an image's name where file names stand."""
    cells = line.split(delimiter)
    return 1 < len(cells) and file < len(cells) and Path(cells[file].strip(' "\r\n')).suffix.lower() in EXTENSIONS


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path} needs pyarrow (pip install pyarrow), or save the table as CSV") from None
    if int(pyarrow.__version__.split(".")[0]) < 15:  # CVE-2023-47248: older ones run code that a file brings along
        raise ValueError(f"{path} needs pyarrow 15 or newer: pip install -U pyarrow")
    with files.open_regular(path, MAX_TABLE_BYTES) as file:
        try:
            table = parquet.ParquetFile(file)
            if table.metadata.num_rows > MAX_ROWS:
                raise ValueError(f"it has {table.metadata.num_rows:,} rows, and at most {MAX_ROWS:,} are read")
            names = [_column(table.schema_arrow.names, names, str(path)) for names in (FILE_COLUMNS, TEXT_COLUMNS)]
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            text = str(error) or type(error).__name__
            raise ValueError(text if text.startswith(f"{path} ") else f"{path}: {text.splitlines()[0]}") from None
        number = 0
        try:
            for batch in table.iter_batches(1024, columns=names):
                columns = [batch.column(name).to_pylist() for name in names]
                for name, text in zip(*columns):
                    number += 1
                    yield number, name, text
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged after row {number}: {str(error).splitlines()[0]}") from None


def _read_coco(content: dict[str, Any], path: Path) -> tuple[Captions, list[str]]:
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise ValueError(f"{path} is not COCO: expected the lists images and annotations, got {_some(content)}")
    if annotations and isinstance(annotations[0], dict) and "caption" not in annotations[0]:
        raise ValueError(f"{path} holds no captions; COCO's caption files are called captions_*.json")
    names: dict[int | str, str] = {}
    for i, image in enumerate(images):
        where = f"{path}, images[{i}]"
        key, name = _entry(image, "id", (int, str), where), _entry(image, "file_name", (str,), where)
        if names.setdefault(key, name) != name:
            raise ValueError(f"{where}: the id {key!r:.40} has another file_name before")
    captions: Captions = dict.fromkeys(names.values(), "")
    orphans = []
    for i, annotation in enumerate(annotations):
        where = f"{path}, annotations[{i}]"
        key = _entry(annotation, "image_id", (int, str), where)
        text = _entry(annotation, "caption", (str, type(None)), where)
        add(captions, names[key], text) if key in names else orphans.append(f"image_id {key}")
    return captions, sorted(set(orphans))


def _entry(entry: Any, key: str, kinds: tuple[type, ...], where: str) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is not COCO: expected an object, got {reprlib.repr(entry)}")
    if key not in entry:
        raise ValueError(f"{where} is not COCO: an entry lacks the key {key!r}")
    if not isinstance(entry[key], kinds):
        raise ValueError(f"{where} is not COCO: {key} should not be {reprlib.repr(entry[key])}")
    return entry[key]
