"""When to save, and which checkpoints to keep; the trainer's plugin sees to it that they reach the disk safely."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.steps import due, finished, step_done

MOST_OF_TIME = 0.05  # share of the training that saving by the clock may take


class Checkpoint(pl.callbacks.Checkpoint):
    """Saves `step=….ckpt` on whole optimiser steps; Lightning calls it after all other callbacks.

    What cannot be written during the run is a warning. Where it is the last checkpoint, or its weights are not finite,
    training stops on all processes and `failure` says why, in one line. While gradients are not finite nothing is
    saved before the last step: weights that they come from may be lost already.

    Args:
        dir: folder of the checkpoints.
        every_steps: save every so many optimiser steps; None never.
        every_sec: also save when the last save began that long ago, or longer where saving would take more than a twentieth of the
            time; None never. Changes nothing in the result.
        keep: how many of the newest to keep; two or more, so that a damaged one has a predecessor.
        background: train on while a copy of the checkpoint is written, for which the first process's memory must have room. The last
            one is waited for.
    Raises: ValueError for keep below 1.
    """

    def __init__(self, dir: str, every_steps: int | None = 1000, every_sec: float | None = 300, keep: int = 2, background: bool = False) -> None:
        if keep < 1:
            raise ValueError(f"callbacks.checkpoint.keep={keep}: at least 1")
        self.dir, self.every_steps, self.every_sec, self.keep, self.background = Path(dir), every_steps, every_sec, keep, background
        self.failure: str | None = None
        self.diverged = False
        self._waiting = False
        self._saved_at = self._save_sec = 0.0  # by the module's clock, which is the same on all processes

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._saved_at = module.train_sec

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not step_done(trainer, module):
            return
        self._waiting = self._waiting or due(trainer, module, self.every_steps) or self._time_is_up(module)
        doubtful = any(any(getattr(c, "in_a_row", {}).values()) for c in trainer.callbacks)  # of NanGuard
        if trainer.should_stop or finished(trainer, module) or self._waiting and not doubtful:
            self.save(trainer, module)
            self._waiting = False

    def save(self, trainer: pl.Trainer, module: Any) -> None:
        """Write a checkpoint of this step and delete those beyond `keep`."""
        for logger in trainer.loggers:
            logger.save()  # lines up to this step are on the disk before the checkpoint that counts on them
        path = self.dir / f"step={module.optimizer_steps:08d}.ckpt"
        error: Exception | None = None
        self._saved_at, began = module.train_sec, time.monotonic()
        io, last = trainer.strategy.checkpoint_io, trainer.should_stop or finished(trainer, module)
        self._finish(io, last)
        io.background = self.background and not last
        try:
            trainer.save_checkpoint(path)
        except (OSError, FloatingPointError) as raised:
            error = raised
            trainer.strategy.barrier()  # process 0 alone writes; the others wait for it here, inside save_checkpoint
        sec = time.monotonic() - began
        if trainer.world_size > 1:
            error, sec = trainer.strategy.broadcast((error, sec))
        self._took(sec, trainer.is_global_zero)
        if error is not None:
            self._failed(trainer, module, error)
        elif trainer.is_global_zero and not io.background:
            io.rotate(path, self.keep)

    def _finish(self, io: Any, last: bool) -> None:
        """Waits for the checkpoint before, if it is written in the background."""
        path, error = io.finish() or (None, None)
        if error is not None:
            print(f"warning: no checkpoint at step {int(path.stem.removeprefix('step='))}: {error}" + ("" if last else "; training goes on"), flush=True)
        elif path is not None:
            io.rotate(path, self.keep)

    def _failed(self, trainer: pl.Trainer, module: Any, error: Exception) -> None:
        what = f"no checkpoint at step {module.optimizer_steps}: {error}"
        if isinstance(error, FloatingPointError):
            self.failure, self.diverged = f"{what}; lower the learning rate or look at the data", True
        elif trainer.should_stop or finished(trainer, module):
            self.failure = f"{what}; {getattr(error, 'remedy', 'put that right')}, then go on"
        elif trainer.is_global_zero:
            print(f"warning: {what}; training goes on", flush=True)
        trainer.should_stop = trainer.should_stop or self.failure is not None

    def _took(self, sec: float, tell: bool) -> None:
        """Notes how long a save took; says so where it makes the next one wait longer than `every_sec`."""
        earlier, self._save_sec = self._save_sec, sec
        if tell and self.every_sec is not None and sec / MOST_OF_TIME > self.every_sec >= earlier / MOST_OF_TIME:
            print(f"a checkpoint takes {sec:.0f} s: by the clock one is saved every {sec / MOST_OF_TIME:.0f} s, not every {self.every_sec:g} s", flush=True)

    def _time_is_up(self, module: Any) -> bool:
        return self.every_sec is not None and module.train_sec - self._saved_at >= max(self.every_sec, self._save_sec / MOST_OF_TIME)
