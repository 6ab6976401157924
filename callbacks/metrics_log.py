"""Training curves: means over the last steps, sent to every logger."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.steps import due


class MetricsLog(pl.Callback):
    """Logs mean losses, gradient norms, learning rates, images per second and the share of the time that is spent waiting
    for data, every so many optimiser steps.

    Values are summed on the device and read only when logged. The sums are in the checkpoint, so a resumed run writes
    the same lines. What depends on the clock is named `time/…`.

    Args:
        every_steps: optimiser steps between two lines.
    """

    def __init__(self, every_steps: int = 50) -> None:
        self.every_steps = every_steps
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self._clock: tuple[float, int, float] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._clock = self._now(trainer, module)
        self.sums = {name: value.to(module.device) for name, value in self.sums.items()}

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        for name, value in module.last_losses.items():
            self._add(f"train/{name}", value)
        for name, value in module.last_grad_norms.items():
            self._add(f"train/grad_norm/{name}", value)
        module.last_grad_norms = {}  # there are new ones at the next optimiser step only
        if due(trainer, module, self.every_steps) and self.sums:
            self._write(trainer, module)

    def _add(self, name: str, value: Tensor) -> None:
        value = value.double() if value.device.type != "mps" else value.float()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] = self.counts.get(name, 0) + 1

    def _write(self, trainer: pl.Trainer, module: Any) -> None:
        means = torch.stack([self.sums[name] / self.counts[name] for name in self.sums])
        if trainer.world_size > 1:
            means = trainer.strategy.reduce(means, reduce_op="mean")
        line = {"images": module.images_seen, **dict(zip(self.sums, means.tolist()))}
        for i, group in enumerate(g for o in trainer.optimizers for g in o.param_groups):
            line["train/lr" if i == 0 else f"train/lr_{i}"] = group["lr"]
        skipped = [c.total for c in trainer.callbacks if type(c).__name__ == "NanGuard"]
        if any(skipped):
            line["train/skipped_steps"] = sum(skipped)
        seconds, images, waited = (now - then for now, then in zip(self._now(trainer, module), self._clock))
        line["time/images_per_sec"] = images / max(seconds, 1e-9)
        line["time/data_wait"] = waited / max(seconds, 1e-9)
        for logger in trainer.loggers:
            logger.log_metrics(line, step=module.optimizer_steps)
        self.sums, self.counts, self._clock = {}, {}, self._now(trainer, module)

    def _now(self, trainer: pl.Trainer, module: Any) -> tuple[float, int, float]:
        """Seconds on the clock, images seen, and seconds waited for data."""
        return time.monotonic(), module.images_seen, trainer.profiler.seconds

    def state_dict(self) -> dict[str, Any]:
        """To be called on all processes at once, as saving does: a checkpoint holds the sums of every process."""
        return {"sums": of_all_processes(self.sums), "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = {name: of_this_process(values) for name, values in state["sums"].items()}
        self.counts = dict(state["counts"])


def of_all_processes(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars by name -> (P,) by name, from P processes that all call this."""
    if not values:
        return {}
    mine = torch.stack(list(values.values()))
    everyones = [mine]
    if dist.is_available() and dist.is_initialized():
        everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyones, mine)
    return dict(zip(values, torch.stack(everyones, 1).unbind()))


def of_this_process(values: Tensor) -> Tensor:
    """The value of this process out of (P,), one for each process that saved; their mean if the number has changed."""
    several = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    values = values.reshape(-1)
    return values[rank] if len(values) == world else values.mean()
