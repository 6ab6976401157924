"""A generative adversarial network in one loop: it runs, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from programs.gan import main


def test_it_trains_both_players_and_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    losses = main(steps=2, batch_size=8, latent_dim=4, out=str(out))
    assert len(losses) == 2 and all(math.isfinite(value) for pair in losses for value in pair)
    assert Image.open(out).size[0] > 400


@pytest.mark.slow
def test_the_discriminator_learns_to_tell_images_from_early_fakes(tmp_path: Path) -> None:
    losses = main(steps=60, batch_size=16, out=str(tmp_path / "a.png"))
    d_losses = [pair[0] for pair in losses]
    assert mean(d_losses[-20:]) < 0.7 * d_losses[0]
