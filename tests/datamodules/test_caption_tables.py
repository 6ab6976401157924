"""Tables of captions: cleaned texts, several captions of an image, line ends and encodings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules import caption_tables
from datamodules.caption_tables import add, clean, lines, read_annotations


@pytest.mark.parametrize(
    "text,expected",
    [
        (" a  cat\n on\ta mat ", "a cat on a mat"),
        (None, ""),
        (float("nan"), ""),
        (7, "7"),
        ("nul\0byte", "nulbyte"),
        ("cafe\u0301", "caf\u00e9"),
        ("half \ud83d pair", "half ? pair"),
    ],
)
def test_captions_are_cleaned(text: object, expected: str) -> None:
    assert clean(text) == expected


def test_an_image_keeps_all_its_captions_and_an_empty_one_only_names_it() -> None:
    captions: dict = {}
    for text in ("", "one", "", "two", "three"):
        add(captions, "a.png", text)
    add(captions, "b.png", None)
    assert captions == {"a.png": ["one", "two", "three"], "b.png": ""}


def test_lines_are_read_in_either_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\ncaf\xe9\n")
    assert list(lines(path)) == ["caf\u00e9\n", "caf\u00e9\n"]
    path.write_bytes("caf\u00e9".encode("utf-16"))
    with pytest.raises(ValueError, match="is written in UTF-16: save it as UTF-8"):
        list(lines(path))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_tables, "MAX_LINE_BYTES", 10)
    path = tmp_path / "t.txt"
    path.write_text("short\n" + "x" * 11)
    with pytest.raises(ValueError, match="line 2 is longer than 10 bytes"):
        list(lines(path))


@pytest.mark.parametrize("end", ["csv", "tsv", "jsonl", "json"])
def test_all_forms_of_a_table_say_the_same(tmp_path: Path, end: str) -> None:
    rows = [("a.png", "red, and green"), ("b.png", 'a "dog"'), ("a.png", "again")]
    path = tmp_path / f"t.{end}"
    objects = [{"file_name": file, "text": text} for file, text in rows]
    if end == "json":
        path.write_text(json.dumps(objects))
    elif end == "jsonl":
        path.write_text("\n".join(map(json.dumps, objects)))
    else:
        mark = "," if end == "csv" else "\t"
        quoted = [(file, '"' + text.replace('"', '""') + '"') for file, text in rows]
        path.write_text("\n".join(mark.join(row) for row in [("file_name", "text"), *quoted]) + "\n")
    layout, captions, orphans = read_annotations(path)
    assert layout == path.name and not orphans
    assert captions == {"a.png": ["red, and green", "again"], "b.png": 'a "dog"'}


def test_a_table_of_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(ValueError, match="should end in .json, .jsonl, .csv, .tsv or .parquet"):
        read_annotations(tmp_path / "t.xlsx")
