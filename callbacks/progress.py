"""One line of progress, readable on a terminal and in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import pytorch_lightning as pl

from callbacks.stop import Stop


class Progress(pl.Callback):
    """Prints step, images, loss, images per second and the time left; overwrites its line on a terminal.

    Args:
        every_sec: seconds between two lines in a log file; a terminal is refreshed every second.
    """

    def __init__(self, every_sec: float = 10) -> None:
        self.every_sec = every_sec
        self._start = self._last = (0.0, 0, 0)  # time, steps, images
        self._loss = ""

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._start = self._last = (time.monotonic(), module.optimizer_steps, module.images_seen)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        first = self._last is self._start and module.optimizer_steps > self._start[1]
        patience = 1.0 if sys.stdout.isatty() else self.every_sec
        if trainer.is_global_zero and (first or time.monotonic() - self._last[0] >= patience):
            self._print(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.is_global_zero and module.optimizer_steps > self._last[1]:
            self._print(trainer, module)
        if sys.stdout.isatty():
            print(flush=True)

    def _print(self, trainer: pl.Trainer, module: Any) -> None:
        now, steps, images = time.monotonic(), module.optimizer_steps, module.images_seen
        then, _, images_then = self._last
        rate = (images - images_then) / max(now - then, 1e-9)
        total = trainer.datamodule.num_batches // trainer.accumulate_grad_batches
        values = sorted(module.last_losses.items(), key=lambda pair: "loss" not in pair[0])[:SHOWN]  # losses before what else is known
        losses = [f"{name} {float(value):.4f}" for name, value in values]
        of = f"/{total}" if total < UNLIMITED else ""
        before, after = [f"step {steps}{of}", f"images {images:,}"], [f"{rate:.1f} img/s", self._left(trainer, module, total)]
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1  # a full line would wrap
            print(fitted(before, losses, after, width).ljust(width), end="\r", flush=True)
        else:
            print("  ".join([*before, *losses, *after]), flush=True)
        self._last = (now, steps, images)

    def _left(self, trainer: pl.Trainer, module: Any, total: int) -> str:
        """Time left by whichever of steps and time ends the run first."""
        began, steps_then, _ = self._start
        per_step = (time.monotonic() - began) / max(module.optimizer_steps - steps_then, 1)
        left = [(total - module.optimizer_steps) * per_step] if total < UNLIMITED else []
        for stop in (c for c in trainer.callbacks if isinstance(c, Stop) and c.max_sec is not None):
            left.append(max(0.0, stop.max_sec - stop.train_sec))
        return f"{clock(min(left))} left" if left else ""


SHOWN = 4  # of the losses


def fitted(before: list[str], losses: list[str], after: list[str], width: int) -> str:
    """A line of at most so many characters: losses are left out from the last one, then all but the first and the last part."""
    shorter = [[*before, *losses[:k], *after] for k in range(len(losses), -1, -1)]
    lines = ["  ".join(parts) for parts in (*shorter, [before[0], after[-1]])]
    return next((line for line in lines if len(line) <= width), lines[-1][: max(width, 0)])


UNLIMITED = 10**9  # steps; a run with a time limit only has that many


def clock(sec: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(sec), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
