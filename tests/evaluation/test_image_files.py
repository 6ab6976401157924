"""Folders of strangers' images: what is read, what is named, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.image_files import read_folder, read_prompts, resized


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of 8 x 8 whose level says their number: a PNG, a grey one, a 16-bit one, a half transparent one."""
    path = tmp_path / "images"
    path.mkdir()
    Image.new("RGB", (8, 8), (10, 10, 10)).save(path / "0.png")
    Image.new("L", (8, 8), 20).save(path / "1.png")
    Image.fromarray(np.full((8, 8), 30 * 257, dtype=np.uint16)).save(path / "2.png")
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(path / "3.png")
    (path / "notes.txt").write_text("no image")
    return path


def test_every_mode_becomes_bytes_in_order(folder: Path) -> None:
    found = read_folder(folder, "images", 0.05)
    assert found.files == ["0.png", "1.png", "2.png", "3.png"] and found.numbers == [0, 1, 2, 3]
    assert [int(image[0, 0, 0]) for image in found.images] == [10, 20, 30, 127] and not found.grey
    assert found.tensor([1, 0], (8, 8), grey=False).shape == (2, 3, 8, 8)
    assert found.lossy == [] and found.broken == {}


def test_grey_folders_stay_grey(folder: Path) -> None:
    for name in ("0.png", "3.png"):
        (folder / name).unlink()
    found = read_folder(folder, "images", 0.05)
    assert found.grey and found.tensor([0], (8, 8), grey=True).shape == (1, 1, 8, 8)


def test_broken_files_are_named_and_keep_their_number(folder: Path) -> None:
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:45])
    (folder / "2.png").write_text("hello")
    with pytest.raises(ValueError, match=r"2 of 4 files cannot be read \(1.png: .*, 2.png: not an image\).*max_broken"):
        read_folder(folder, "images", 0.05)
    found = read_folder(folder, "images", 0.5)
    assert list(found.broken) == ["1.png", "2.png"] and found.numbers == [0, 3] and len(found) == 2


@pytest.mark.parametrize(
    ("name", "options"), [("a.jpg", {}), ("a.webp", {"quality": 80}), ("a.PNG", {"format": "JPEG"})]
)
def test_lossy_files_are_refused_whatever_they_are_called(folder: Path, name: str, options: dict) -> None:
    Image.new("RGB", (8, 8)).save(folder / name, **options)
    with pytest.raises(ValueError, match=rf"1 of 5 images are compressed with losses \({name}\).*allow_lossy=true"):
        read_folder(folder, "images", 0.05, allow_lossy=False)
    assert read_folder(folder, "images", 0.05, allow_lossy=True).lossy == [name]


def test_lossless_webp_is_no_loss(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.webp", lossless=True)
    assert read_folder(folder, "images", 0.05, allow_lossy=False).lossy == []


def test_places_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images=.*nowhere: no such folder"):
        read_folder(tmp_path / "nowhere", "images", 0.05)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in it \(.*; it holds folders, such as images=.*train"):
        read_folder(tmp_path, "images", 0.05)


def test_one_rule_for_other_sizes(folder: Path) -> None:
    wide = np.zeros((16, 32, 3), dtype=np.uint8)
    wide[:, 8:24] = 255  # the centre square
    assert resized(wide, (8, 8)).shape == (8, 8, 3) and resized(wide, (8, 8)).min() > 230
    assert resized(wide, (32, 16)) is wide
    tall = resized(wide.transpose(1, 0, 2), (4, 2))  # the cut-out keeps the proportions asked for
    assert tall.shape == (2, 4, 3) and tall.min() > 230
    assert resized(wide[:, :, :1], (8, 8)).shape == (8, 8, 1)
    Image.fromarray(wide).save(folder / "wide.png")
    assert read_folder(folder, "images", 0.05).size() == (8, 8)


def test_captions_by_line_and_by_name(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    (tmp_path / "c.txt").write_text("one\n\nthree\nfour\n")
    found = read_prompts(tmp_path / "c.txt", names)
    assert found == [{"caption": "one"}, {}, {"caption": "three"}, {"caption": "four"}]
    lines = [{"file": "c.png", "caption": "three"}, {"file": "a.png", "label": 1}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_prompts(tmp_path / "c.jsonl", names)
    assert found[2]["caption"] == "three" and found[0]["label"] == 1 and found[1] == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "\n\n", "holds no caption"),
        ("c.jsonl", '{"caption": }\n', "line 1 is not valid JSON"),
        ("c.jsonl", '{"file": "z.png"}\n', "line 1 names 'z.png', which is not among the images"),
    ],
)
def test_bad_files_of_captions(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / name, ["a.png"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_prompts(tmp_path / "nowhere.txt", [])


def test_as_many_files_may_be_broken_as_was_said_and_not_one_more(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_text("hello")
    assert len(read_folder(tmp_path, "images", 0.1)) == 9
    with pytest.raises(ValueError, match="1 of 10 files cannot be read"):
        read_folder(tmp_path, "images", 0.09)
    (tmp_path / "5.png").write_text("hello")
    with pytest.raises(ValueError, match="2 of 10 files cannot be read"):
        read_folder(tmp_path, "images", 0.1)


def test_a_strangers_folder_blocks_nothing_runs_nothing_and_shows_nothing_of_ours(folder: Path, tmp_path: Path) -> None:
    """Pipes, folders, links out of the folder and documents that other programs would run are left out by name."""
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "inner.png").symlink_to("0.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "x.png").mkdir()
    (folder / "run.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) print\n%%EOF\n")
    found = read_folder(folder, "images", 1.0)
    assert found.broken == {
        "link.png": "a link out of the folder; allow_outside=true takes it", "pipe.png": "not a regular file",
        "run.png": "not an image", "x.png": "not a regular file",
    }  # fmt: skip
    assert "inner.png" not in found.broken and len(found) + len(found.broken) == len(found.files)
    assert "link.png" not in read_folder(folder, "images", 1.0, allow_outside=True).broken


def test_more_images_than_fit_into_memory_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 30)  # half of 900 bytes: images in colours have 192, grey ones 64
    with pytest.raises(ValueError, match="the first 4 of 4 images fill half of the memory here"):
        read_folder(folder, "images", 0.05)


SPEC = {"kind": "single", "groups": [{"count": 1, "size": "small", "colour": "red", "shape": "circle"}]}
WRONG_LINES = {
    "null": ("null", "line 1 is no JSON object but None"),
    "list": ("[]", "line 1 is no JSON object"),
    "deep": ("[" * 100_000, "nested too deep"),
    "twice": ('{"file": "a.png", "file": "b.png"}', "the key 'file' comes twice"),
    "number for a file": ('{"file": 1}', "file should be text, not 1"),
    "list for a file": ('{"file": []}', r"file should be text, not \[\]"),
    "object for a caption": ('{"caption": {}}', "caption should be text"),
    "text for a label": ('{"label": "1"}', "label should be a whole number"),
    "truth for a label": ('{"label": true}', "label should be a whole number"),
    "negative label": ('{"label": -1}', "label should be a whole number"),
    "huge label": ('{"label": 1e400}', "label should be a whole number"),
    "list for a spec": ('{"spec": []}', "spec should be an object"),
    "empty spec": ('{"spec": {}}', "spec is no scene: the key 'groups' is missing"),
    "unknown spec": (json.dumps({"spec": SPEC | {"x": 1}}), "spec is no scene"),
    "half an object": (json.dumps({"spec": SPEC | {"groups": [SPEC["groups"][0] | {"count": 1.5}]}}), "spec is no scene"),
    "list for a colour": (json.dumps({"spec": SPEC | {"groups": [SPEC["groups"][0] | {"colour": []}]}}), "spec is no scene"),
    "named twice": ('{"file": "a.png"}\n{"file": "a.png"}', "line 2 names 'a.png', which is named before"),
}


@pytest.mark.parametrize("case", WRONG_LINES)
def test_wrong_lines_of_prompts_are_named(tmp_path: Path, case: str) -> None:
    text, message = WRONG_LINES[case]
    (tmp_path / "c.jsonl").write_text(text + "\n")
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(tmp_path / "c.jsonl", ["a.png", "b.png"])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_captions_lose_what_no_page_can_show(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"caption": "a\x1b[31m \ud800red\u202e\ncat"}) + "\n")
    assert read_prompts(tmp_path / "c.jsonl", ["a.png"]) == [{"caption": "a[31m red cat"}]
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_prompts(tmp_path / "pipe.txt", ["a.png"])
    (tmp_path / "c.txt").write_bytes("caf\xe9".encode("latin1"))
    with pytest.raises(ValueError, match="is not written in UTF-8"):
        read_prompts(tmp_path / "c.txt", ["a.png"])
