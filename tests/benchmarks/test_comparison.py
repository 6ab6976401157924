"""Folders of damaged scenes: the damage is what it says, and models of other data are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import comparison
from benchmarks.comparison import DAMAGE, copies, shuffled, texture, write_folders
from scenes.parser import parse
from scenes.scoring import score


@pytest.fixture(scope="module")
def scenes() -> torch.Tensor:
    return torch.full((20, 3, 64, 64), 128, dtype=torch.uint8) + torch.arange(20, dtype=torch.uint8)[:, None, None, None]


def test_texture_is_smooth_and_of_the_strength_it_names(scenes) -> None:
    added = texture(scenes, 2).double() - scenes.double()
    assert 1.2 < added.std() < 2.2  # cubic interpolation takes some of the 2 away
    steps = (added[..., 1:] - added[..., :-1]).abs()
    assert steps.mean() < 0.6  # eight pixels to a cell


def test_shuffled_and_copies(scenes) -> None:
    assert torch.equal(shuffled(scenes)[0], scenes[10]) and len(shuffled(scenes)) == 20
    assert len(copies(scenes)) == 20 and len(copies(scenes).flatten(1).unique(dim=0)) == 2
    assert len(copies(scenes[:16])) == 16  # no multiple of ten


def test_folders_answer_the_prompts(tmp_path) -> None:
    folders = write_folders("imagen-scenes", "iid", 4, tmp_path)
    assert list(folders) == list(DAMAGE)
    config = comparison.load_module("imagen-scenes")[1]
    data = comparison.instantiate_untrusted(config.data)
    specs = [spec for _, spec in data.prompts("iid", 4)]
    real = [np.asarray(Image.open(folders["real"] / f"{i:05d}.png")) for i in range(4)]
    assert all(score(spec, parse(image))["all_correct"] for spec, image in zip(specs, real))
    assert not np.array_equal(np.asarray(Image.open(folders["blur 1"] / "00000.png")), real[0])
