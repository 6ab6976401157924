"""Every folder layout is understood, and everything else is refused in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.caption_sources import Sample, read_source, walk


def files(root: Path, **contents: str | bytes) -> Path:
    """Write files; in a name `__` stands for a dot and `___` for a slash."""
    for name, content in contents.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(file: str, text: object) -> dict:
    return {"file_name": file, "text": text}


TWO = [Sample("a.png", ("a cat", "one cat")), Sample("b.png", ("a dog",))]


@pytest.mark.parametrize(
    "name,content",
    [
        ("metadata__jsonl", lines(row("b.png", "a dog"), row("a.png", ["a cat", "one cat"]))),
        ("metadata__jsonl", lines(row("a.png", "a cat"), row("b.png", "a dog"), row("a.png", "one cat"))),
        ("metadata__csv", "file_name,text\na.png,a cat\nb.png,a dog\na.png,one cat\n"),
        ("metadata__csv", "\ufefffile_name,size,text\r\na.png,1,a cat\r\na.png,1,one  cat \r\nb.png,2,a dog\r\n"),
        ("metadata__tsv", "image\tcaption\na.png\ta cat\na.png\tone cat\nb.png\ta dog\n"),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str):
    source = read_source(files(tmp_path, **{name: content}))
    assert source.samples == TWO and source.layout == name.replace("__", ".")


def test_parquet(tmp_path: Path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"file_name": ["b.png", "a.png"], "text": [["a dog"], ["a cat", "one cat"]]})
    parquet.write_table(table, tmp_path / "metadata.parquet")
    assert read_source(tmp_path).samples == TWO


def test_a_table_anywhere(tmp_path: Path):
    (tmp_path / "images").mkdir()
    files(tmp_path, labels__csv="path,captions\na.png,a cat\na.png,one cat\nb.png,a dog\n")
    assert read_source(tmp_path / "images", annotations=str(tmp_path / "labels.csv")).samples == TWO


def test_a_json_list_of_rows(tmp_path: Path):
    rows = [{"image": "b.png", "caption": "a dog"}, {"image": "a.png", "caption": ["a cat", "one cat"]}]
    files(tmp_path, rows__json=json.dumps(rows))
    assert read_source(tmp_path, annotations=str(tmp_path / "rows.json")).samples == TWO


def test_sidecars(tmp_path: Path):
    files(tmp_path, a__png="", a__txt="a cat\n\none cat\n", b__png="", b__txt="a dog", README__txt="hello")
    files(tmp_path, deep___c__jpg="", deep___c__txt="a\u0301 bird\0", lost__TXT="nothing", d__png="", d__jpg="")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    source = read_source(tmp_path)
    assert source.samples == [*TWO, Sample("d.jpg", ()), Sample("d.png", ()), Sample("deep/c.jpg", ("\xe1 bird",))]
    assert source.orphans == ["lost.TXT"]


def test_windows_text(tmp_path: Path):
    files(tmp_path, a__png="", a__txt="café".encode("cp1252"), b__png="", b__txt="café".encode("utf-8-sig"))
    assert [s.captions for s in read_source(tmp_path).samples] == [("café",), ("café",)]


def coco(annotations: list[dict]) -> str:
    images = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}, {"id": 4, "file_name": "c.png"}]
    return json.dumps({"info": {}, "images": images, "annotations": annotations})


def test_coco(tmp_path: Path):
    said = [(7, "a cat"), (3, "a dog"), (7, "one cat"), (99, "nobody")]
    content = coco([{"image_id": i, "id": n, "caption": c} for n, (i, c) in enumerate(said)])
    files(tmp_path, captions_val2017__json=content)
    source = read_source(tmp_path, annotations=str(tmp_path / "captions_val2017.json"))
    assert source.samples == [*TWO, Sample("c.png", ())]
    assert source.orphans == ["image_id 99"] and source.layout == "COCO captions"


def test_class_folders(tmp_path: Path):
    files(tmp_path, polar_bear___a__png="", oak___b__png="", loose__png="")
    source = read_source(tmp_path, class_template="a photo of a {}")
    assert source.samples == [
        Sample("oak/b.png", ("a photo of a oak",)),
        Sample("polar_bear/a.png", ("a photo of a polar bear",)),
    ]


def test_empty_captions_are_none(tmp_path: Path):
    files(tmp_path, metadata__jsonl=lines(row("a", None), row("b", [" ", "x"])))
    assert read_source(tmp_path).samples == [Sample("a", ()), Sample("b", ("x",))]


def test_the_order_of_rows_does_not_matter(tmp_path: Path):
    rows = [row(f"{i:02}.png", str(i)) for i in range(20)]
    one = read_source(files(tmp_path / "one", metadata__jsonl=lines(*rows)))
    two = read_source(files(tmp_path / "two", metadata__jsonl=lines(*rows[::-1])))
    assert one.samples == two.samples


def test_link_loops_end(tmp_path: Path):
    files(tmp_path, a___b__png="")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(walk(tmp_path)) == ["a/b.png"]


WRONG: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "empty": ({}, {}, "data.root: .* is empty"),
    "no captions": (
        {"a__png": "", "b__png": "", "c__pdf": ""},
        {},
        r"no captions found in .* \(saw 2 .png, 1 .pdf\); understood are: metadata.jsonl.*COCO.*class_template",
    ),
    "tars": ({"a__0.tar": ""}, {}, "data=shards data.root=.* reads .tar shards"),
    "json there": ({"a__png": "", "captions__json": "{}"}, {}, "is data.annotations=.*captions.json what you meant"),
    "one folder too high": ({"train___metadata__csv": "", "train___a__png": ""}, {}, "is data.root=.*/train what you"),
    "texts of other images": ({"a__png": "", "b__txt": "x"}, {}, "no captions found"),
    "two tables": ({"metadata__csv": "", "metadata__jsonl": ""}, {}, "holds metadata.jsonl and metadata.csv: keep one"),
    "no rows": ({"metadata__jsonl": ""}, {}, "metadata.jsonl is empty"),
    "no file column": ({"metadata__csv": "x,text\na,b\n"}, {}, "column file_name or image or path; it has x, text"),
    "no text column": ({"metadata__csv": "file_name,y\na,b\n"}, {}, "column text or .*; it has file_name, y"),
    "not json": ({"metadata__jsonl": lines(row("a", "b")) + "{oops\n"}, {}, "metadata.jsonl, line 2 is not valid JSON"),
    "rows of numbers": ({"metadata__jsonl": "1\n"}, {}, "line 1: expected an object with file_name and text, got 1"),
    "duplicate stems": ({"a__png": "", "a__jpg": "", "a__txt": "x"}, {}, "a.jpg and a.png share the captions a.txt"),
    "no placeholder": ({"a__png": ""}, {"class_template": "a photo"}, "'a photo' has no {} for the class name"),
    "no classes": ({"a__png": ""}, {"class_template": "a {}"}, "has no folders: expected .*/<class>/<image>"),
    "annotations missing": ({"a__png": ""}, {"annotations": "no.json"}, "data.annotations: there is no file no.json"),
    "odd ending": ({"t__xml": ""}, {"annotations": "{root}/t.xml"}, "should end in .json, .jsonl"),
    "instances": (
        {"i__json": coco([{"image_id": 7, "bbox": [0, 0, 1, 1]}])},
        {"annotations": "{root}/i.json"},
        "i.json holds no captions; COCO's caption files are called captions_",
    ),
    "other json": ({"o__json": '{"data": []}'}, {"annotations": "{root}/o.json"}, "is not COCO: expected .*, got data"),
    "half coco": ({"o__json": coco([{"caption": "x"}])}, {"annotations": "{root}/o.json"}, "lacks the key 'image_id'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_one_clear_line(tmp_path: Path, case: str):
    contents, arguments, message = WRONG[case]
    files(tmp_path, **contents)
    arguments = {name: value.replace("{root}", str(tmp_path)) for name, value in arguments.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read_source(tmp_path, **arguments)
    assert "\n" not in str(error.value)


def test_missing_folder_and_file_as_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="data.root: there is no folder .*nowhere"):
        read_source(tmp_path / "nowhere")
    files(tmp_path, a__txt="")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        read_source(tmp_path / "a.txt")
