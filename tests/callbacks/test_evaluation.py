"""Alignment during training: when it runs, what it logs, on which weights."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from callbacks.ema import EMA
from callbacks.evaluation import Evaluate
from datamodules.scenes import ScenesDataModule
from scenes.render import render


class Oracle(torch.nn.Module):
    """Right about every caption if its weight is 1; the averaged weight is 1, the live one 0."""

    def __init__(self, data: ScenesDataModule) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.specs = dict(data.prompts("iid", 64))
        self.batches_seen = self.optimizer_steps = 4
        self.images_seen = 256
        self.refusal: str | None = None
        self.asked: list[tuple[str, int]] = []

    def sampling_refusal(self) -> str | None:
        return self.refusal

    def sample(self, captions, *, seeds, num_steps=None):
        assert not self.training and num_steps == 3
        self.asked += list(zip(captions, seeds))
        images = [render(self.specs[c], s % 1000, 64)[0] for c, s in zip(captions, seeds)]
        image = torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1) for i in images]) / 127.5 - 1
        return image * self.weight - 0.8 * (1 - self.weight)


@pytest.fixture
def setting():
    data = ScenesDataModule(preset="scenes_simple", image_size=64)
    data.num_batches = 100
    module, ema = Oracle(data), EMA(decay=0.9)
    ema.params = {"weight": torch.ones(1)}
    lines: list[tuple[int, dict]] = []
    logger = SimpleNamespace(log_metrics=lambda line, step: lines.append((step, line)))
    trainer = SimpleNamespace(
        datamodule=data,
        callbacks=[ema],
        loggers=[logger],
        accumulate_grad_batches=1,
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )
    return trainer, module, lines


def test_logs_every_skill_of_the_averaged_weights_and_restores(setting) -> None:
    trainer, module, lines = setting
    Evaluate(every_steps=4, n=10, batch_size=4, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    ((step, line),) = lines
    assert step == 4 and line["images"] == 256
    assert line["eval/iid/exact"] == line["eval/iid/skills_mean"] == 1
    assert module.training and module.weight.item() == 0
    first = list(module.asked)
    Evaluate(every_steps=4, n=10, batch_size=3, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    assert module.asked == first * 2  # the same prompts and seeds every time, whatever the batch size


def test_runs_only_when_due_and_possible(setting) -> None:
    trainer, module, lines = setting
    Evaluate(every_steps=3, n=4).on_train_batch_end(trainer, module)
    module.refusal = "stage 'base' is not trained"
    Evaluate(every_steps=4, n=4).on_train_batch_end(trainer, module)
    module.refusal, trainer.datamodule = None, SimpleNamespace(num_batches=100)
    Evaluate(every_steps=4, n=4).on_train_batch_end(trainer, module)
    assert lines == [] and module.asked == []


def test_ranks_draw_disjoint_shares(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, module, lines = setting
    trainer.world_size = 2
    shares = []

    def gather(out, mine):
        shares.append(mine)
        out[:] = [mine, mine]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    for trainer.global_rank in (0, 1):
        Evaluate(every_steps=4, n=5, options={"num_steps": 3}).on_train_batch_end(trainer, module)
    assert [len(share) for share in shares] == [3, 2] and len(set(module.asked)) == 5


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Evaluate(n=0)
