"""Validation: a mean over images, of all processes, with the averaged weights."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks.ema import EMA
from callbacks.validate import Validate


class Level(nn.Module):
    """Its loss is the mean level of a batch times its weight, which is 1 in the average and 0 live."""

    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches_seen = self.optimizer_steps = 4
        self.images_seen, self.asked, self.moments = 256, [], False

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        assert not self.training and not torch.is_grad_enabled()
        self.asked.append(batch_idx)
        if self.moments:
            x = batch["image"].float() * self.weight
            return {"moments": torch.stack([x.mean(), x.square().mean()]), "loss": x.mean()}
        loss = (batch["image"].float() * self.weight).mean()
        return {"loss": loss, "other": loss.bfloat16()}

    def validation_summary(self, means: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        if not self.moments:
            return means
        first, second = means["moments"]
        return {"loss": means["loss"], "images": images, "variance": second - first.square()}


BATCHES = [{"image": torch.tensor([1.0, 2.0, 6.0])}, {"image": torch.tensor([4.0, 2.0])}, {"image": torch.tensor([9.0])}]


def run(callback: Validate, processes: int = 1, module: Level | None = None) -> tuple[list[tuple[int, dict]], Level]:
    module, ema, lines = module or Level(), EMA(decay=0.5), []
    ema.params = {"weight": torch.ones(())}
    strategy = SimpleNamespace(
        batch_to_device=lambda batch: batch,
        reduce=lambda value, reduce_op: processes * value if reduce_op == "sum" else value,
    )
    data = SimpleNamespace(val_dataset=range(6), val_dataloader=lambda: iter(BATCHES), num_batches=100)
    trainer: Any = SimpleNamespace(
        datamodule=data, callbacks=[ema], accumulate_grad_batches=1, world_size=processes, strategy=strategy,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
        loggers=[SimpleNamespace(log_metrics=lambda line, step: lines.append((step, line)))],
    )  # fmt: skip
    callback.on_train_batch_end(trainer, module)
    return lines, module


@pytest.mark.parametrize("processes", [1, 3])
def test_every_image_weighs_the_same(processes: int) -> None:
    lines, module = run(Validate(every_steps=2), processes)
    assert lines == [(4, {"images": 256, "val/loss": 24 / 6, "val/other": pytest.approx(4, rel=0.01)})]
    assert module.asked == [0, 1, 2] and module.training and module.weight.item() == 0


@pytest.mark.parametrize("processes", [1, 3])
def test_what_is_no_mean_over_images_is_computed_from_means_over_all_of_them(processes: int) -> None:
    module = Level()
    module.moments = True
    ((_, line),), _ = run(Validate(every_steps=2), processes, module)
    variance = torch.cat([batch["image"] for batch in BATCHES]).var(correction=0).item()
    expected = {"images": 256, "val/loss": 24 / 6, "val/images": 6 * processes, "val/variance": pytest.approx(variance)}
    assert line == expected


def test_sums_are_joined_by_adding(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def reduce(value: Tensor, reduce_op: str) -> Tensor:
        seen.append(reduce_op)
        return value + torch.tensor([100.0, 100.0, 4.0], dtype=torch.float64)  # another process: four images, level 25

    lines, module = [], Level()
    module.weight.data.fill_(1)
    strategy = SimpleNamespace(batch_to_device=lambda batch: batch, reduce=reduce)
    data = SimpleNamespace(val_dataset=range(6), val_dataloader=lambda: iter(BATCHES), num_batches=100)
    trainer: Any = SimpleNamespace(
        datamodule=data, callbacks=[], accumulate_grad_batches=1, world_size=2, strategy=strategy,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
        loggers=[SimpleNamespace(log_metrics=lambda line, step: lines.append(line))],
    )  # fmt: skip
    Validate(2).on_train_batch_end(trainer, module)
    assert seen == ["sum"] and lines[0]["val/loss"] == pytest.approx((24 + 100) / 10)


def test_fewer_batches_on_request_and_none_when_not_due() -> None:
    lines, module = run(Validate(2, max_batches=2))
    assert module.asked == [0, 1] and lines[0][1]["val/loss"] == 15 / 5
    assert run(Validate(every_steps=3))[0] == []
