"""DALL-E 2 in one loop: it runs, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from programs.dalle2 import main


def test_it_trains_and_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    losses = main(clip_steps=1, steps=1, batch_size=2, dim=16, width=32, num_steps=2, out=str(out))
    assert len(losses) == 1 and all(map(math.isfinite, losses))
    assert Image.open(out).size[0] > 400


@pytest.mark.slow
def test_its_loss_falls(tmp_path: Path) -> None:
    losses = main(clip_steps=100, steps=150, batch_size=16, dim=16, width=64, num_steps=2, out=str(tmp_path / "a.png"))
    assert mean(losses[-30:]) < 0.5 * mean(losses[:5])
