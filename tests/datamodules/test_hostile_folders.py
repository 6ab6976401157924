"""Folders of strangers: nothing blocks, nothing is read outside the root unasked, and every refusal has a name."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datamodules import decode
from datamodules.caption_sources import Sample, Source, read_source
from datamodules.captions import CaptionsDataModule
from datamodules.check import main
from datamodules.decode import BadImage, load_square, verify
from datamodules.manifest import Manifest, build_manifest


def png(width: int = 8, height: int = 8, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two images, with a picture and a text beside it that are nobody's business."""
    root = tmp_path / "images"
    (root / "c").mkdir(parents=True)
    for name in ("a.png", "c/b.png"):
        (root / name).write_bytes(png())
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "private.png").write_bytes(png(colour="blue"))
    (tmp_path / "beside" / "private.txt").write_text("a password")
    return root


def build(root: Path, names: list[str] | None = None, allow_outside: bool = False) -> Manifest:
    if names is None:
        source = read_source(root, allow_outside=allow_outside)
    else:
        source = Source("test", [Sample(name, ("x",)) for name in names])
    return build_manifest(root, source, root.parent / "cache", allow_outside)


def special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        path.symlink_to("nowhere")


KINDS = ("pipe", "socket", "folder", "device", "loop", "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_image_and_never_waited_for(root: Path, kind: str) -> None:
    special(root / "x.png", kind)
    manifest = build(root, ["a.png", "x.png"], allow_outside=True)
    (bad,) = manifest.bad
    assert bad.file == "x.png" and bad.reason == ("missing" if kind == "nothing" else "unreadable")
    with pytest.raises(BadImage, match="missing|unreadable"):
        load_square(root / "x.png", 8)  # what has become a pipe since the check


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_what_is_no_file_is_no_table(root: Path, kind: str, name: str) -> None:
    special(root / name, kind)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read_source(root)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_text_beside_an_image(root: Path, kind: str) -> None:
    (root / "a.txt").write_text("a caption")
    special(root / "c" / "b.txt", kind)
    manifest = build(root)
    assert [s.file for s in manifest.samples] == ["a.png"]
    assert Counter(bad.file for bad in manifest.bad)["c/b.png"] == 1


OUT = {
    "absolute": "{beside}/private.png",
    "parent": "../beside/private.png",
    "parent within": "c/../../beside/private.png",
    "through nothing": "nowhere/../../beside/private.png",
    "link": "link.png",
    "linked folder": "linked/private.png",
    "link to a link": "twice.png",
    "parent of a linked folder": "linked/../beside/private.png",
}


@pytest.mark.parametrize("case", OUT)
def test_images_outside_the_root_are_counted_and_taken_only_by_name(root: Path, case: str, capsys) -> None:
    beside = root.parent / "beside"
    (root / "link.png").symlink_to(beside / "private.png")
    (root / "twice.png").symlink_to("link.png")
    (root / "linked").symlink_to(beside)
    name = OUT[case].format(beside=beside)
    rows = [{"file_name": name, "text": "x"}, {"file_name": "a.png", "text": "y"}]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = build(root)
    assert [(bad.file, bad.reason) for bad in manifest.bad] == [(name, "outside_root")]
    with pytest.raises(ValueError, match=r"1 outside_root.*allow_outside=true"):
        manifest.require(0.01)
    assert main([str(root), "--cache-dir", str(root.parent / "cache")]) == 1
    told = capsys.readouterr()
    assert "outside_root: 1" in told.out and name in told.out and "data.allow_outside=true" in told.err
    if case != "through nothing":
        assert not build(root, allow_outside=True).bad


def test_a_path_that_stays_inside_is_taken(root: Path) -> None:
    (root / "d.png").symlink_to("c/b.png")
    (root / "e").symlink_to("c")
    names = ["./a.png", "c/../a.png", str(root / "a.png"), "d.png", "e/b.png", "c//b.png"]
    assert not build(root, names).bad
    (root.parent / "other").symlink_to(root)  # the root itself may be a link
    assert not build(root.parent / "other", names).bad


def test_texts_and_tables_outside_the_root_are_not_read(root: Path) -> None:
    (root / "a.txt").symlink_to(root.parent / "beside" / "private.txt")
    (root / "linked").symlink_to(root.parent / "beside")
    (root / "c" / "b.txt").write_text("a caption")
    source = read_source(root)
    assert "password" not in str(source) and len(source.refused) == 2
    assert {bad.reason for bad in source.refused} == {"outside_root"}
    assert "password" in str(read_source(root, allow_outside=True))
    (root.parent / "t.jsonl").write_text('{"file_name": "a.png", "text": "password"}\n')
    (root / "metadata.jsonl").symlink_to(root.parent / "t.jsonl")
    with pytest.raises(ValueError, match=r"metadata.jsonl is a link out of data.root.*data.annotations"):
        read_source(root)
    assert read_source(root, annotations=str(root / "metadata.jsonl")).samples


_DEPTH = 400


def test_folders_hundreds_deep_and_links_in_circles_end(root: Path) -> None:
    here = os.getcwd()
    os.chdir(root)
    for _ in range(_DEPTH):
        os.mkdir("d")
        os.chdir("d")
    Path("deep.png").write_bytes(png())
    Path("deep.txt").write_text("far down")
    os.symlink(root, "again")
    os.chdir(here)
    (root / "a.txt").write_text("near")
    try:
        manifest = build(root)
        deep = build(root, ["a.png", "d/" * _DEPTH + "deep.png"])
    finally:
        _tidy(root)
    assert [s.file for s in manifest.samples] == ["a.png"] and manifest.total == 3
    assert [(bad.reason, bad.detail) for bad in manifest.bad] == [
        ("unreadable", "more than 200 folders deep"), ("without caption", ""),
    ]  # fmt: skip
    assert deep.bad[0].detail == "more than 200 folders deep"


def _tidy(root: Path) -> None:
    """Removes what is too deep for the tools that tests tidy up with."""
    here = os.getcwd()
    os.chdir(root)
    for _ in range(_DEPTH):
        os.chdir("d")
    for _ in range(_DEPTH):
        for name in os.listdir():
            os.rmdir(name) if name == "d" else os.remove(name)
        os.chdir("..")
    os.chdir(here)


STRANGE = [b"new\nline.png", b"tab\t.png", b"\x1b[2J\x1b]0;owned\x07.png", b"no \xff utf-8.png", "\u202egnp.exe.png".encode(),
           b"<script>.png", b"-rf.png", b"$(id).png", b"x" * 240 + b".png", b" .png"]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_strange_names_are_read_and_printed_without_harm(tmp_path: Path, name: bytes, capfd) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"images")
    os.mkdir(folder)
    for content, end in ((png(), b""), (b"caption \x1b[31m of it", b".txt")):
        with open(os.path.join(folder, name[:-4] + end if end else name), "wb") as file:
            file.write(content)
    with open(os.path.join(folder, b"bad" + name[-200:]), "wb") as file:
        file.write(b"no image")
    assert main([str(tmp_path / "images"), "--cache-dir", str(tmp_path / "cache")]) == 1
    told = "".join(capfd.readouterr())
    assert not set(told) & set("\x1b\x07\t\u202e\udcff") and "1 of 2 images usable" in told


def test_the_datamodule_serves_strange_names(tmp_path: Path) -> None:
    for i, name in enumerate(STRANGE):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(png())
        with open(os.path.join(os.fsencode(tmp_path), name[:-4] + b".txt"), "wb") as file:
            file.write(b"number %d" % i)
    data = CaptionsDataModule(str(tmp_path), image_size=8, batch_size=2, cache_dir=str(tmp_path.parent / "cache"))
    data.setup()
    assert len(data.train_dataset) + len(data.val_dataset) == len(STRANGE) and len(data.fingerprint()) == 32
    assert data.train_dataset[0, 0]["image"].shape == (3, 8, 8)


QUOTES = {
    "never closed": ('file_name,text\na.png,"a cat\nc/b.png,a dog\n', "line 2: a quote is opened and not closed"),
    "closed by the next": ('file_name,text\na.png,"a cat\nc/b.png,"a dog"\n', "line 2: a quote is opened and not closed"),
    "closed rows later": ('file_name,text\na.png,"a cat\nc/b.png,a dog\nx.png,5"\n', "line 2: a quote is opened and not closed"),
    "in the header": ('file_name,"text\na.png,a cat\n', "line 1: a quote is opened and not closed"),
    "huge": ('file_name,text\na.png,"' + "x\n" * 200_000, "line 2: a field has more than 131,072 characters"),
    "comma in a caption": ("file_name,text\na.png,a cat\nc/b.png,red, and green\n", "line 3 has 3 fields, and the header has 2"),
    "short row": ("file_name,text\na.png\n", "line 2 has 1 fields"),
    "twice": ("file_name,text,text\na.png,a,b\n", "has the column text twice"),
    "old Mac": ("file_name,text\ra.png,a cat\r", "ends its lines as old Macs did"),
}


@pytest.mark.parametrize("case", QUOTES)
def test_no_row_of_a_csv_is_swallowed(root: Path, case: str) -> None:
    content, message = QUOTES[case]
    (root / "metadata.csv").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_source(root)
    assert "metadata.csv" in str(error.value) and "\n" not in str(error.value)


def test_captions_in_quotes_may_have_lines_quotes_and_commas(root: Path) -> None:
    text = 'file_name,text\na.png,"a ""cat"",\non a mat, at 5.png"\nc/b.png,5" nail\n'
    (root / "metadata.csv").write_text(text)
    found = [s.captions for s in read_source(root).samples]
    assert found == [('a "cat", on a mat, at 5.png',), ('5" nail',)]


ROWS = {
    "null": ("null", "line 2: expected an object with file_name and text, got None"),
    "number": ("7", "line 2: expected an object .* got 7"),
    "list": ("[1]", "line 2: expected an object"),
    "text": ('"a.png"', "line 2: expected an object"),
    "deep": ("[" * 100_000, "line 2 is not valid JSON: it is nested too deep"),
    "deep in a row": ('{"file_name": "a.png", "text": ' + '{"a":' * 100_000, "line 2 is not valid JSON"),
    "long number": ('{"file_name": "a.png", "text": ' + "1" * 5000 + "}", "line 2 is not valid JSON"),
    "twice": ('{"file_name": "a.png", "file_name": "c/b.png", "text": "x"}', "line 2 is not valid JSON: the key 'file_name' comes twice"),
    "number for a file": ('{"file_name": 7, "text": "x"}', "line 2: a file name should be text, got 7"),
    "object for a file": ('{"image": {"bytes": "x"}, "text": "x"}', "line 2: a file name should be text"),
    "object for a caption": ('{"file_name": "a.png", "text": {"en": "x"}}', "line 2: a caption should be text, got {'en': 'x'}"),
    "list in a list": ('{"file_name": "a.png", "text": [["x"]]}', "line 2: a caption should be text"),
    "truth": ('{"file_name": "a.png", "text": true}', "line 2: a caption should be text, got True"),
    "no file": ('{"text": "x"}', "line 2 needs a column file_name or image or path; it has text"),
    "empty": ("{}", "line 2 needs a column .*; it has nothing"),
    "long line": ('{"file_name": "a.png", "text": "' + "x" * 2**20 + '"}', "line 2 is longer than 1,048,576 bytes"),
    "raw control": ('{"file_name": "a\0.png", "text": "x"}', "line 2 is not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_rows_that_are_none_name_their_line(root: Path, case: str) -> None:
    content, message = ROWS[case]
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "x"}) + "\n" + content + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_source(root)
    assert "metadata.jsonl" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_odd_values_are_counted(root: Path) -> None:
    rows = [("a.png", [None, " ", "x\0y"]), ("c/b.png", "half \ud800 of a pair"), ("a\0.png", "x"), ("", "of no image"),
            ("c", "a folder"), ("." , "the root"), ("a" * 5000, "long"), ("c/b.png", [])]  # fmt: skip
    (root / "metadata.jsonl").write_text("".join(json.dumps({"file_name": f, "text": t}) + "\n" for f, t in rows))
    manifest = build(root)
    assert [(s.file, s.captions) for s in manifest.samples] == [("a.png", ("xy",)), ("c/b.png", ("half ? of a pair",))]
    assert Counter(bad.reason for bad in manifest.bad) == {"missing": 2, "unreadable": 3} and manifest.total == 7


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(root: Path, encoding: str) -> None:
    (root / "metadata.csv").write_bytes("file_name,text\na.png,a cat\n".encode(encoding))
    with pytest.raises(ValueError, match="metadata.csv (is written in UTF-16|needs a column)"):
        read_source(root)


COCO = {
    "number": ("7", "should hold COCO captions or a list of rows, got 7"),
    "images of numbers": ('{"images": [1], "annotations": []}', r"images\[0\] is not COCO: expected an object, got 1"),
    "no id": ('{"images": [{"file_name": "a.png"}], "annotations": []}', r"images\[0\] .* lacks the key 'id'"),
    "no name": ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\] .* lacks the key 'file_name'"),
    "list for an id": ('{"images": [{"id": [], "file_name": "a"}], "annotations": []}', r"images\[0\] .*: id should not be \[\]"),
    "object for a name": ('{"images": [{"id": 1, "file_name": {}}], "annotations": []}', "file_name should not be {}"),
    "two names": ('{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}', "another file_name"),
    "null entry": ('{"images": [], "annotations": [null]}', r"annotations\[0\] is not COCO: expected an object, got None"),
    "no image_id": ('{"images": [], "annotations": [{"caption": "x"}]}', r"annotations\[0\] .* lacks the key 'image_id'"),
    "second without": ('{"images": [], "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 1}]}', "lacks the key 'caption'"),
    "list for a caption": ('{"images": [], "annotations": [{"image_id": 1, "caption": []}]}', r"caption should not be \[\]"),
    "object for images": ('{"images": {}, "annotations": []}', "is not COCO: expected the lists"),
    "deep": ('{"images": ' + "[" * 100_000, "nested too deep"),
}  # fmt: skip


@pytest.mark.parametrize("case", COCO)
def test_malformed_coco_names_the_entry(root: Path, case: str) -> None:
    content, message = COCO[case]
    (root / "captions.json").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_source(root, annotations=str(root / "captions.json"))
    assert "captions.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "columns", [{"a": [1]}, {"file_name": ["a.png"]}, {"file_name": [1], "text": ["x"]}, {"image": [{"bytes": b"x"}], "text": ["x"]},
                {"file_name": ["a.png"], "text": [{"en": "x"}]}, {"file_name": ["a.png"], "text": [b"x"]}]
)  # fmt: skip
def test_parquet_of_another_schema(root: Path, columns: dict) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(columns), root / "metadata.parquet")
    with pytest.raises(ValueError, match="metadata.parquet(, row 1: a .* should be text| needs a column)"):
        read_source(root)


@pytest.mark.parametrize("template", ["{} {x}", "{} {0}", "{0.__class__} {}", "{} {", "}{}", "{}{!r}", "a photo", 7, ""])
def test_a_bad_template_is_one_line_at_once(root: Path, template: object) -> None:
    with pytest.raises(ValueError, match=r"data.class_template .* has (no|other braces)"):
        CaptionsDataModule(str(root), class_template=template)


def test_images_in_flight_are_bounded_over_all_threads(root: Path, monkeypatch) -> None:
    """Twelve images of 300 x 300 and room for two: as many are decoded at once, and a larger one goes alone."""
    names = [f"{i}.png" for i in range(12)] + ["large.png"]
    for name in names:
        (root / name).write_bytes(png(300, 300) if name != "large.png" else png(600, 600))
    busy, most, lock, to_rgb = [], [], threading.Lock(), decode._to_rgb

    def watched(image: Image.Image) -> Image.Image:
        with lock:
            busy.append(image.width)
            most.append(sum(w * w for w in busy))
        threading.Event().wait(0.005)
        with lock:
            busy.remove(image.width)
        return to_rgb(image)

    monkeypatch.setattr(decode, "_to_rgb", watched)
    monkeypatch.setattr(decode, "_room", decode._Room(2 * 300 * 300))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("datamodules.manifest._AT_ONCE", 1)
    assert not build(root, names).bad
    assert 2 * 300 * 300 in most and all(pixels <= 2 * 300 * 300 or pixels == 600 * 600 for pixels in most)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(kind: str) -> bytes:
    """Few bytes that unpack to many, or that claim to be enormous."""
    head = b"\x89PNG\r\n\x1a\n"

    def header(width: int, height: int) -> bytes:
        return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))

    if kind == "huge":
        return head + header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    if kind == "text":
        texts = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))) * 3
        return head + header(8, 8) + texts + png()[33:]
    if kind == "profile":
        return head + header(8, 8) + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**27))) + png()[33:]
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0" + struct.pack("<HHB", 65535, 65535, 0) + b"\x02\0;"
    if kind == "bmp":
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0) + b"x" * 100
    if kind == "webp":
        return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff\x3f\0\xff\x3f\0" + bytes(20)
    if kind == "scans":
        buffer = io.BytesIO()
        Image.new("L", (4000, 4000)).save(buffer, "JPEG", progressive=True)
        content = buffer.getvalue()
        scan = content[content.rindex(b"\xff\xda") : -2]
        return content[:-2] + scan * 500 + content[-2:]
    entries = b"".join(struct.pack("<HHII", 40000 + i, 1, 60_000, 8) for i in range(5000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)
    if kind == "tiff":
        return exif
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["huge", "text", "profile", "gif", "bmp", "webp", "scans", "tiff", "exif"])
def test_bombs_are_defused(root: Path, kind: str) -> None:
    """Few bytes take at most 400 MiB."""
    path = root / "bomb"
    path.write_bytes(bomb(kind))
    assert path.stat().st_size < 2**20
    code = (
        "import resource as r, sys\nfrom datamodules.decode import verify, BadImage\n"
        "used = lambda: r.getrusage(r.RUSAGE_SELF).ru_maxrss\nbefore = used()\n"
        "try:\n    verify(sys.argv[1]); print('read')\nexcept BadImage as bad: print(bad.reason)\n"
        "print((used() - before) // 1024)"
    )
    command, repo = [sys.executable, "-c", code, str(path)], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=repo)
    verdict, mebibytes = done.stdout.split()
    assert verdict in ("too_large", "corrupt", "truncated", "not_an_image") or kind in ("text", "profile", "exif")
    assert int(mebibytes) < 400, done.stdout


def test_animations_are_their_first_frame(root: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (i % 256, 0, 0)) for i in range(300)]
    for name in ("x.gif", "x.webp", "x.tif", "y.png"):
        frames[0].save(root / name, save_all=True, append_images=frames[1:])
        verify(root / name)
        assert load_square(root / name, 4).max() < 10
