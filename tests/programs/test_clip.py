"""CLIP in one loop: it runs, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from programs.clip import main


def test_it_trains_and_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    losses = main(steps=2, batch_size=8, width=32, out=str(out))
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert Image.open(out).size[0] > 200


@pytest.mark.slow
def test_its_loss_falls(tmp_path: Path) -> None:
    losses = main(steps=300, batch_size=32, width=64, out=str(tmp_path / "a.png"))
    assert mean(losses[-20:]) < math.log(32) / 2, "half of what guessing among 32 costs"
