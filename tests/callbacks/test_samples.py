"""The second picture: reconstructions above the validation images that they are of."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from evaluators.images import to_uint8
from tests import toy
from train import main

CELL, GAP = 128, 4


def cell(picture: Image.Image, row: int, column: int) -> Image.Image:
    """One image of a grid, at the toy's size."""
    left, top = (GAP + i * (CELL + GAP) for i in (column, row))
    return picture.crop((left, top, left + CELL, top + CELL)).resize((toy.SIZE, toy.SIZE), Image.Resampling.NEAREST)


def pixels(picture: Image.Image) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(toy.SIZE, toy.SIZE, 3).permute(2, 0, 1)


def test_reconstructions_stand_above_their_originals(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Toy, "reconstruct", lambda self, batch: batch["image"].neg().clamp(-1, 1), raising=False)
    main(toy.overrides("trainer.max_steps=4", "callbacks.samples.every_steps=2", run=tmp_path))
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    steps = [f"step={i:08d}.png" for i in (2, 4)]
    assert names == [*(f"reconstructions-{name}" for name in steps), *steps]
    first, last = (Image.open(tmp_path / "samples" / name) for name in names[:2])
    assert first.tobytes() == last.tobytes(), "the same images at every step"
    dataset = toy.ToyDataset(7)
    for column in (0, 6):  # seven images to validate on
        image = dataset[(column, 0)]["image"][None].clamp(-1, 1)
        original, rebuilt = (pixels(cell(last, row, column)).int() for row in (1, 0))
        assert (original - to_uint8(image)[0].int()).abs().max() < 12, "the noise of augmentation"
        assert (original + rebuilt - 255).abs().max() <= 1
    assert last.size == (7 * (CELL + GAP) + GAP, 2 * (CELL + GAP) + GAP)


def test_a_failed_reconstruction_does_not_stop_training(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(toy.Toy, "reconstruct", lambda self, batch: batch["image"] * torch.nan, raising=False)
    assert main(toy.overrides("trainer.max_steps=4", "callbacks.samples.every_steps=2", run=tmp_path))["step"] == 4
    assert capsys.readouterr().out.count("no reconstruction grid: images [0") == 1
    assert [p.name[:4] for p in (tmp_path / "samples").iterdir()] == ["step"] * 2
