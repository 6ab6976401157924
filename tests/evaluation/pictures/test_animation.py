"""Animations keep their frames in order and hold the last one; a failed one leaves the old file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from evaluation.pictures.animation import FRAME_MS, LAST_MS, save_gif


def test_frames_come_in_order_and_the_last_one_is_held(tmp_path: Path) -> None:
    save_gif([Image.new("RGB", (8, 8), (v, v, v)) for v in (0, 120, 240)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        shades, durations = [], []
        for i in range(picture.n_frames):
            picture.seek(i)
            shades.append(picture.convert("L").getpixel((4, 4)))
            durations.append(picture.info["duration"])
        assert picture.info["loop"] == 0
    assert shades == [0, 120, 240] and durations == [FRAME_MS, FRAME_MS, LAST_MS]


def test_a_film_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"old")
    with pytest.raises(AttributeError):
        save_gif([Image.new("RGB", (8, 8)), None], tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
