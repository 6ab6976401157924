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
from datamodules.base import ShardBatchSampler
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from lightning_modules.cascade import Cascade
from lightning_modules.spaces import Pixels
from lightning_modules.stage import DiffusionStage
from lightning_modules.super_resolution import LowResolution
from networks.conditioners import LowresConditioner


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


def batches():
    return iter([dict(batch) for batch in BATCHES])


def run(callback: Validate, processes: int = 1, module: Level | None = None) -> tuple[list[tuple[int, dict]], Level]:
    module, ema, lines = module or Level(), EMA(decay=0.5), []
    ema.params = {"weight": torch.ones(())}
    strategy = SimpleNamespace(
        batch_to_device=lambda batch: batch,
        reduce=lambda value, reduce_op: processes * value if reduce_op == "sum" else value,
    )
    data = SimpleNamespace(val_dataset=range(6 * processes), val_dataloader=batches, num_batches=100, batch_size=3 * processes)
    trainer: Any = SimpleNamespace(
        datamodule=data, global_rank=0, callbacks=[ema], accumulate_grad_batches=1, world_size=processes, strategy=strategy,
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
    data = SimpleNamespace(val_dataset=range(10), val_dataloader=batches, num_batches=100, batch_size=6)
    trainer: Any = SimpleNamespace(
        datamodule=data, global_rank=0, callbacks=[], accumulate_grad_batches=1, world_size=2, strategy=strategy,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
        loggers=[SimpleNamespace(log_metrics=lambda line, step: lines.append(line))],
    )  # fmt: skip
    Validate(2).on_train_batch_end(trainer, module)
    assert seen == ["sum"] and lines[0]["val/loss"] == pytest.approx((24 + 100) / 10)


def test_fewer_batches_on_request_and_none_when_not_due() -> None:
    lines, module = run(Validate(2, max_batches=2))
    assert module.asked == [0, 1] and lines[0][1]["val/loss"] == 15 / 5
    assert run(Validate(every_steps=3))[0] == []


# ---- noise levels of the validation images ----


def trainer_of(total: int, batch_size: int, rank: int = 0, world: int = 1) -> Any:
    data = SimpleNamespace(val_dataset=range(total), batch_size=batch_size)
    return SimpleNamespace(datamodule=data, global_rank=rank, world_size=world)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 7, 24])
def test_quantiles_cover_the_set_evenly_whatever_the_processes_and_the_batch_size(world: int, total: int) -> None:
    """Image j has the same level wherever it is validated, and all levels together are (j + 1/2) / N."""
    whole = Validate().quantiles(trainer_of(total, 4))
    torch.testing.assert_close(whole.sort().values, (torch.arange(total) + 0.5) / total)
    for batch_size in (world, 6 * world):
        for rank in range(world):
            own = Validate().quantiles(trainer_of(total, batch_size, rank, world))
            assert torch.equal(own, whole[rank::world])


def test_levels_are_not_in_the_order_of_the_images() -> None:
    order = Validate().quantiles(trainer_of(1000, 4))
    assert abs(torch.corrcoef(torch.stack([order, torch.arange(1000.0)]))[0, 1]) < 0.1


@pytest.mark.parametrize("world", [1, 2])
def test_a_part_of_the_set_is_covered_evenly_too(world: int) -> None:
    ranks = [Validate(max_batches=3).quantiles(trainer_of(100, 4, rank, world)) for rank in range(world)]
    torch.testing.assert_close(torch.cat(ranks).sort().values, (torch.arange(12) + 0.5) / 12)


class Net(nn.Module):
    """A net of one weight, whose error depends on the level of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, log_snr: Tensor, *, vector: Tensor | None = None, channels: Tensor | None = None) -> Tensor:
        level = torch.tanh(log_snr / 4)[:, None, None, None]
        return self.weight * level * x + (0 if channels is None else 0.2 * channels)


def cascade() -> Cascade:
    torch.manual_seed(0)
    given = dict(schedule=CosineSchedule(), sampler=ddim)
    up = dict(space=Pixels(8), lowres=LowResolution(4, crop_size=4), conditioners={"lowres": LowresConditioner(4)})
    stages = {"base": DiffusionStage(Net(), space=Pixels(4), **given), "up": DiffusionStage(Net(), **given, **up, batch_share=0.3)}
    return Cascade(stages)


def validated(module: Cascade, step: int, batch_size: int, world: int = 1, total: int = 22) -> dict[str, float]:
    """Validation as every process does it, one after the other; the last one logs the sum of all."""
    images = torch.rand(total, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sums: list[Tensor] = []
    lines: list[dict[str, float]] = []

    def reduce(value: Tensor, reduce_op: str) -> Tensor:
        sums.append(value)
        return torch.stack(sums).sum(0)

    for rank in range(world):
        sampler = ShardBatchSampler(total, max(1, batch_size // world), "val")
        sampler._share = lambda rank=rank: range(total)[rank::world]
        found = [{"image": images[[i for i, _ in keys]], "seed": torch.tensor([s for _, s in keys])} for keys in sampler]
        data = SimpleNamespace(
            val_dataset=range(total), val_dataloader=lambda found=found: iter(found), num_batches=100, batch_size=batch_size
        )
        trainer: Any = SimpleNamespace(
            datamodule=data, callbacks=[], accumulate_grad_batches=1, world_size=world, global_rank=rank,
            strategy=SimpleNamespace(batch_to_device=lambda batch: batch, reduce=reduce),
            precision_plugin=SimpleNamespace(val_step_context=nullcontext),
            loggers=[SimpleNamespace(log_metrics=lambda line, step: lines.append(line))],
        )  # fmt: skip
        module._trainer = trainer
        module.batches_seen = module.optimizer_steps = step
        Validate(1).on_train_batch_end(trainer, module)
    return {name: value for name, value in lines[-1].items() if name.startswith("val/")}


def test_at_fixed_weights_the_loss_is_the_same_number_at_every_step_batch_size_and_number_of_processes() -> None:
    module = cascade()
    first = validated(module, 1, 4)
    assert sorted(first) == ["val/loss", "val/loss_base", "val/loss_up"] and min(first.values()) > 0.01
    for step in (2, 30, 71):
        assert validated(module, step, 4) == first
    for batch_size, world in ((1, 1), (9, 1), (22, 1), (6, 2), (6, 3)):
        assert validated(module, 5, batch_size, world) == pytest.approx(first, rel=1e-5)
    module.stages["base"].net.weight.data.fill_(0.2)
    changed = validated(module, 1, 4)
    assert changed["val/loss_base"] != first["val/loss_base"] and changed["val/loss_up"] == first["val/loss_up"]
