"""Validation losses, of the averaged weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.steps import due, evaluating


class Validate(pl.Callback):
    """Logs `val/…`, the mean over all validation images, every so many optimiser steps and at the end.

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
        with evaluating(trainer, module):
            for i, batch in enumerate(trainer.datamodule.val_dataloader()):
                if self.max_batches is not None and i >= self.max_batches:
                    break
                batch = trainer.strategy.batch_to_device(batch)
                n = batch["image"].shape[0]
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
