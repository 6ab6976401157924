"""Losses by noise level: bins, the same numbers whatever the batches, the picture, and who gets none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.loss_by_level import BINS, LossByLevel, bars, binned
from tests.lightning_modules.test_diffusion import make

STRATEGY = SimpleNamespace(batch_to_device=lambda batch: batch)


class Recorder:
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[dict] = []
        self.pictures: list[tuple] = []

    def log_metrics(self, line: dict, step: int) -> None:
        self.lines.append(line | {"step": step})

    def log_picture(self, name: str, picture: Any, step: int) -> None:
        self.pictures.append((name, picture.size, step))


def run(tmp_path: Path, module: Any, batch_size: int, n: int = 60) -> Recorder:
    image = torch.randn(n, 3, 2, 2, generator=torch.Generator().manual_seed(0)).tanh()
    whole = {"image": image, "label": torch.arange(n) % 3, "seed": torch.arange(n)}
    parts = [{k: v[i : i + batch_size] for k, v in whole.items()} for i in range(0, n, batch_size)]
    data = SimpleNamespace(val_dataset=range(n), val_dataloader=lambda: parts, batch_size=batch_size, num_batches=9)
    recorder = Recorder()
    trainer = SimpleNamespace(
        datamodule=data, loggers=[recorder], callbacks=[], world_size=1, global_rank=0, is_global_zero=True,
        accumulate_grad_batches=1, strategy=STRATEGY,
        precision_plugin=SimpleNamespace(val_step_context=lambda: torch.no_grad()),
    )  # fmt: skip
    module.batches_seen, module.optimizer_steps, module.images_seen = 4, 4, 80
    LossByLevel(str(tmp_path), every_steps=4, max_batches=None).on_train_batch_end(trainer, module)
    return recorder


def test_every_sample_falls_in_its_bin() -> None:
    loss, count = binned(torch.tensor([-99.0, -13.0, 0.0, 1.9, 2.0, 99.0]), torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert count.tolist() == [2, *[0] * 6, 2, 1, *[0] * 4, 1] and len(count) == BINS
    assert loss.tolist() == [3, *[0] * 6, 12, 16, *[0] * 4, 32]


def test_the_loss_is_split_and_shown(tmp_path: Path) -> None:
    module = make()
    small, large = run(tmp_path / "a", module, 7), run(tmp_path / "b", module, 60)
    (line,), (other,) = small.lines, large.lines
    assert line.keys() == other.keys() and all(line[k] == pytest.approx(other[k], rel=1e-5) for k in line)
    levels = {int(k.rpartition("/")[2]): v for k, v in line.items() if k.startswith("val/loss_by_level/")}
    assert len(levels) > 5 and line["step"] == 4 and line["images"] == 80
    assert small.pictures[0][0] == "loss_by_level" and small.pictures[0][2] == 4
    assert (tmp_path / "a/step=00000004.png").is_file()


def test_the_bins_average_to_the_validation_loss(tmp_path: Path) -> None:
    module, n = make(), 60
    batch = {"image": torch.randn(n, 3, 2, 2).tanh(), "label": torch.arange(n) % 3, "seed": torch.arange(n)}
    batch["quantile"] = (torch.randperm(n) + 0.5) / n
    log_snr, loss = module.loss_by_level(batch)["diffusion"]
    assert float(loss.mean()) == pytest.approx(float(module.validation_step(batch, 0)["loss"]), rel=1e-5)
    assert torch.equal(log_snr.argsort(descending=True), batch["quantile"].argsort()), "noise grows with the quantile"


def test_a_model_without_levels_and_other_steps_are_left_alone(tmp_path: Path) -> None:
    module = SimpleNamespace(batches_seen=4, optimizer_steps=4)
    LossByLevel(str(tmp_path / "x")).on_train_batch_end(None, module)
    assert not (tmp_path / "x").exists()


def test_the_picture_has_a_bar_per_level() -> None:
    picture = np.array(bars({-3: 0.5, 1: 1.0}, "title"))
    blue = (picture == [0x3B, 0x6E, 0xA5]).all(-1)
    heights = [blue[:, 20 + i * 46 + 23].sum() for i in range(3)]
    assert heights[1] == 0 and heights[2] == pytest.approx(2 * heights[0], abs=2)
