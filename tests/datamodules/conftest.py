"""A small captioned folder to spoil."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NUM_IMAGES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 PNGs of noise, each with two captions, in metadata.jsonl."""
    root = tmp_path / "images"
    root.mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(NUM_IMAGES):
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(root / f"{i:03}.png")
        rows.append({"file_name": f"{i:03}.png", "text": [f"picture {i}", f"number {i}"]})
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def cut(path: Path) -> None:
    """Leave half of a file, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.fixture
def truncate():
    """The function that leaves half of a file."""
    return cut
