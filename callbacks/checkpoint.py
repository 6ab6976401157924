"""When to save, and which checkpoints to keep; the trainer's plugin sees to it that they reach the disk safely."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from callbacks.steps import due, step_done


class Checkpoint(pl.callbacks.Checkpoint):
    """Saves `step=….ckpt` on whole optimiser steps; Lightning calls it after all other callbacks.

    Args:
        dir: folder of the checkpoints.
        every_steps: save every so many optimiser steps; None never.
        every_sec: also save when the last save is that long ago; None never. Changes nothing in the result.
        keep: how many of the newest to keep; two or more, so that a damaged one has a predecessor.
    Raises: ValueError for keep below 1.
    """

    def __init__(self, dir: str, every_steps: int | None = 1000, every_sec: float | None = 300, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"callbacks.checkpoint.keep={keep}: at least 1")
        self.dir, self.every_steps, self.every_sec, self.keep = Path(dir), every_steps, every_sec, keep
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not step_done(trainer, module):
            return
        if trainer.should_stop or due(trainer, module, self.every_steps) or self._time_is_up(trainer):
            self.save(trainer, module)

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        """Write a checkpoint of this step and delete those beyond `keep`; a full disk is reported, not fatal."""
        for logger in trainer.loggers:
            logger.save()  # lines up to this step are on the disk before the checkpoint that counts on them
        try:
            trainer.save_checkpoint(self.dir / f"step={module.optimizer_steps:08d}.ckpt")
        except OSError as error:
            if trainer.world_size > 1:
                raise  # the other processes wait in a barrier
            print(f"warning: no checkpoint at step {module.optimizer_steps}: {error}", flush=True)
        else:
            if trainer.is_global_zero:
                for old in sorted(self.dir.glob("step=*.ckpt"))[: -self.keep]:
                    old.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def _time_is_up(self, trainer: pl.Trainer) -> bool:
        late = self.every_sec is not None and time.monotonic() - self._saved_at >= self.every_sec
        if self.every_sec is not None and trainer.world_size > 1:  # the clocks differ: process 0 decides
            late = bool(trainer.strategy.broadcast(torch.tensor(late)))
        return late
