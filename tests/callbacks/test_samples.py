"""The second picture: reconstructions above the validation images that they are of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from callbacks.ema import EMA
from callbacks.samples import SampleGrid
from contracts import Request
from evaluation.metrics.images import to_uint8
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


def rebuilding(monkeypatch: pytest.MonkeyPatch, reconstruct: Callable[..., torch.Tensor]) -> None:
    """The toy is another class with `reconstruct` for one test: Python remembers what a class was once seen to have."""
    monkeypatch.setattr(toy, "Toy", type("Toy", (toy.Toy,), {"reconstruct": reconstruct, "__module__": toy.__name__}))


def test_reconstructions_stand_above_their_originals(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuilding(monkeypatch, lambda self, batch: batch["image"].neg().clamp(-1, 1))
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
    rebuilding(monkeypatch, lambda self, batch: batch["image"] * torch.nan)
    assert main(toy.overrides("trainer.max_steps=4", "callbacks.samples.every_steps=2", run=tmp_path))["step"] == 4
    assert capsys.readouterr().out.count("no reconstruction grid: images [0") == 1
    assert [p.name[:4] for p in (tmp_path / "samples").iterdir()] == ["step"] * 2


# ---- step by step ----


class Painter(torch.nn.Module):
    """Its images are as bright as its weight, which is 1 in the average and -1 live."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(-torch.ones(()))
        self.batches_seen = self.optimizer_steps = 4
        self.asked: list[list[int]] = []

    def example_request(self) -> Request:
        return Request(3)

    def sampling_refusal(self) -> None:
        return None

    def sample(self, request: Request, *, seeds: list[int]) -> torch.Tensor:
        self.asked.append(seeds)
        return (self.weight * torch.ones(request.n, 3, 4, 4)).detach()


def draw(callback: SampleGrid, module: Painter, rank: int = 0) -> list[str]:
    """The pictures that a process leaves after a step."""
    ema = EMA(decay=0.5)
    ema.params = {"weight": torch.ones(())}
    trainer = SimpleNamespace(
        accumulate_grad_batches=1, callbacks=[ema], loggers=[], is_global_zero=rank == 0, should_stop=False,
        datamodule=SimpleNamespace(num_batches=100, val_dataset=None),
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )  # fmt: skip
    callback.on_train_batch_end(trainer, module)
    return sorted(path.name for path in callback.dir.iterdir()) if callback.dir.exists() else []


def test_grids_show_the_average_from_the_same_seeds_at_every_step(tmp_path: Path) -> None:
    callback, module = SampleGrid(str(tmp_path / "samples"), every_steps=4, seed=10), Painter()
    draw(callback, module)
    module.batches_seen = module.optimizer_steps = 8
    assert draw(callback, module) == ["step=00000004.png", "step=00000008.png"]
    assert module.asked == [[10, 11, 12]] * 2 and module.weight.item() == -1
    for path in callback.dir.iterdir():
        assert Image.open(path).getpixel((GAP + 5, GAP + 5)) == (255, 255, 255), "bright as the average is"


def test_process_0_alone_draws(tmp_path: Path) -> None:
    module = Painter()
    assert draw(SampleGrid(str(tmp_path / "samples"), every_steps=4), module, rank=1) == [] and module.asked == []


def test_a_model_of_prompts_without_any_is_asked_for_those_of_the_data(tmp_path: Path) -> None:
    module, requests = Painter(), []
    module.conditioning, module.example_request = "text", lambda: Request(0)
    module.sample = lambda request, *, seeds: requests.append((request, seeds)) or torch.ones(request.n, 3, 4, 4)
    trainer = SimpleNamespace(datamodule=SimpleNamespace(example_prompts=lambda: ["a dog", "a cat"]))
    assert SampleGrid(str(tmp_path)).samples(trainer, module) is not None
    assert requests == [(Request(2, texts=["a dog", "a cat"]), [0, 1])]
    trainer.datamodule.example_prompts = lambda: []
    assert SampleGrid(str(tmp_path)).samples(trainer, module) is None


@pytest.mark.parametrize("of_process_zero", [True, False])
def test_all_processes_draw_or_none_does(of_process_zero: bool, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not see the grid of this step, on a file system of its own, does as process 0 does."""
    trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=1, callbacks=[], datamodule=SimpleNamespace(num_batches=9),
                              strategy=SimpleNamespace(broadcast=lambda mine: of_process_zero))  # fmt: skip
    drawn: list[int] = []
    monkeypatch.setattr(SampleGrid, "draw", lambda self, trainer, module: drawn.append(module.optimizer_steps))
    SampleGrid(dir=str(tmp_path), every_steps=2).on_train_start(trainer, SimpleNamespace(optimizer_steps=4, batches_seen=4))
    assert drawn == ([] if of_process_zero else [4])
