"""Folders of strangers' images: what is read, what is named, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluators.folder import read_folder, read_prompts, resized


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
