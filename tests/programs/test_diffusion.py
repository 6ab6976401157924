"""A diffusion model of classes in one loop: it runs, and it learns."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from datamodules.class_files import load
from programs.diffusion import main


def test_it_trains_and_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    losses = main(steps=2, batch_size=4, dim=16, num_steps=2, out=str(out))
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    assert Image.open(out).size[0] > 200


def loss_of_pixels_apart(images: torch.Tensor) -> float:
    """The squared error of v of the exact denoiser of images (N, 1, H, W) whose pixels are independent Gaussians.

    Given x_t = alpha x_0 + sigma eps, v is a known value minus x_0 / sigma; x_0 has variance s^2 sigma^2 / (alpha^2 s^2 + sigma^2).
    """
    variance = images.var(0)[..., None]
    angle = (torch.arange(200) + 0.5) / 200 * math.pi / 2
    return float((variance / (angle.cos() ** 2 * variance + angle.sin() ** 2)).mean())


@pytest.mark.slow
def test_it_learns_more_than_pixels_apart_can_tell(tmp_path: Path) -> None:
    (images, _), _, _ = load("garments", None)
    losses = main(steps=200, batch_size=16, dim=16, num_steps=2, out=str(tmp_path / "a.png"))
    assert mean(losses[-50:]) < 0.8 * loss_of_pixels_apart(torch.from_numpy(images.copy()).float() / 127.5 - 1)
