"""Validation losses, of the averaged weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.steps import due, evaluating

ORDER_SEED = 20_220_523  # any number, never changed: validation losses of old and new runs can then be compared


class Validate(pl.Callback):
    """Logs `val/…`, the mean over all validation images, every so many optimiser steps and at the end.

    Every validation image j of N has a quantile of its own, (j + ½)/N in an order fixed for ever: `quantile` (B,) of its
    batch. A diffusion model takes it for the noise level, so that the levels cover the validation set evenly and depend on
    neither the step, the batch size nor the number of processes: at fixed weights the loss is always the same number.

    It runs its own loop inside a training step's end, before the checkpoint: Lightning's validation loop has a state
    that a resumed run can get wrong. Shards of unequal length are weighed by their images.

    Args:
        every_steps: optimiser steps between two validations.
        max_batches: batches per process; None uses all.
    """

    def __init__(self, every_steps: int = 1000, max_batches: int | None = None) -> None:
        self.every_steps, self.max_batches = every_steps, max_batches

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not due(trainer, module, self.every_steps):
            return
        if trainer.datamodule.val_dataset is None or not len(trainer.datamodule.val_dataset):
            return
        sums, images = {}, 0
        with evaluating(trainer, module, together=True):
            quantiles = self.quantiles(trainer)
            for i, batch in enumerate(trainer.datamodule.val_dataloader()):
                if self.max_batches is not None and i >= self.max_batches:
                    break
                batch = trainer.strategy.batch_to_device(batch)
                n = batch["image"].shape[0]
                batch["quantile"] = quantiles[images : images + n].to(module.device)
                for name, value in module.validation_step(batch, i).items():
                    sums[name] = sums.get(name, 0.0) + value.double() * n
                images += n
        names = sorted(sums)
        count = torch.tensor([images], dtype=torch.float64, device=module.device)
        totals = torch.cat([*(sums[name].flatten() for name in names), count])
        if trainer.world_size > 1:
            totals = trainer.strategy.reduce(totals, reduce_op="sum")
        parts = (totals[:-1] / totals[-1]).cpu().split([sums[name].numel() for name in names])
        means = {name: part.reshape(sums[name].shape) for name, part in zip(names, parts)}
        values = module.validation_summary(means, int(totals[-1]))
        line = {"images": module.images_seen, **{f"val/{name}": float(value) for name, value in values.items()}}
        for logger in trainer.loggers:
            logger.log_metrics(line, step=module.optimizer_steps)

    def quantiles(self, trainer: pl.Trainer) -> torch.Tensor:
        """Those of this process's validation images, float32, in their order."""
        datamodule, world = trainer.datamodule, trainer.world_size
        total = len(datamodule.val_dataset)
        if self.max_batches is not None:
            total = min(total, self.max_batches * max(1, datamodule.batch_size // world) * world)
        order = torch.randperm(total, generator=torch.Generator().manual_seed(ORDER_SEED))
        return ((order + 0.5) / total)[trainer.global_rank :: world]
