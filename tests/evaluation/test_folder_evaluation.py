"""A folder of images: what it is compared with, and which notes its files deserve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from evaluation.folder_evaluation import against_folder, columns_of_prompts, is_run, notes_on_files
from evaluation.image_files import Folder, read_folder


def folder(path: Path, count: int, size: int = 4) -> Path:
    path.mkdir()
    for i in range(count):
        Image.new("RGB", (size, size), (i, i, i)).save(path / f"{i:03d}.png")
    return path


def config(place: Path, **more: object) -> object:
    known = {"reference": str(place), "max_broken": 0.05, "allow_outside": False, "n": None, "prompts": None}
    return OmegaConf.create(known | more)


def test_a_folder_of_images_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert not is_run(str(folder(tmp_path / "images", 1)))
    assert is_run(str(tmp_path / "run")) and is_run("imagen-scenes")


def test_the_real_images_are_halved_and_evenly_spread(tmp_path: Path) -> None:
    images = read_folder(str(folder(tmp_path / "theirs", 10)), "images", 0.05, False, False)
    notes: list[str] = []
    rows, prompts, _ = against_folder(config(folder(tmp_path / "real", 8)), images, notes)
    assert rows == [0, 2, 5, 7] and len(prompts) == 4 and not prompts.paired
    assert prompts.real[:, 0, 0, 0].tolist() == [1, 3, 5, 7]
    assert prompts.reference[:, 0, 0, 0].tolist() == [0, 2, 4, 6]
    assert notes == ["4 of 10 images are used, evenly spread: 8 real ones allow 4"]
    with pytest.raises(ValueError, match="n=5 takes 5 images and 10 real ones"):
        against_folder(config(tmp_path / "real", n=5), images, [])


def test_captions_go_with_the_chosen_images(tmp_path: Path) -> None:
    images = read_folder(str(folder(tmp_path / "theirs", 3)), "images", 0.05, False, False)
    (tmp_path / "captions.txt").write_text("zero\n\ntwo\nthree\n")
    notes: list[str] = []
    found = columns_of_prompts(config(tmp_path, prompts=str(tmp_path / "captions.txt")), images, [0, 1, 2], notes)
    assert found == {"captions": ["zero", None, "two"], "specs": None, "labels": None}
    assert notes[0].startswith("2 of 3 images have a caption") and "has 4 lines for 3 images" in notes[1]


def test_files_that_were_left_out_or_lose_detail_are_noted() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    found = Folder(Path("x"), ["a.png", "b.jpg", "c.png"], [image] * 2, [0, 1], ["b.jpg"], {"c.png": "not an image"})
    assert notes_on_files(found, "images") == [
        "images: 1 of 3 files were left out (c.png: not an image)",
        "images: 1 of 2 are compressed with losses (b.jpg)",
    ]
    assert notes_on_files(Folder(Path("x"), [], []), "images") == []
