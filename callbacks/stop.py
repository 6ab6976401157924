"""Stopping between two optimiser steps: on SIGTERM, on Ctrl-C, and when the time is used up, of which the module is told."""

from __future__ import annotations

import signal
import threading
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch

OUT_OF_TIME = -1


class Stop(pl.Callback):
    """Asks the trainer to stop after the current step; all processes agree on the step.

    The module is told `train_sec`, the seconds of training so far, and with `max_time` in `time_share` the share of it that is used, by
    which learning rates fall: the same on all processes.

    Args:
        max_time: DD:HH:MM:SS of training, summed over resumed sessions; None is unlimited.
    Raises: ValueError for a malformed time.
    """

    clock = staticmethod(time.monotonic)  # in seconds; benchmarks count those of the processor

    def __init__(self, max_time: str | None = None) -> None:
        self.max_sec = None if max_time is None else parse_time(max_time)
        self.signum = 0
        self.out_of_time = False
        self._earlier_sec = 0.0
        self._earlier_handler: Any = None
        self._began = self.clock()

    @property
    def train_sec(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self._earlier_sec + self.clock() - self._began

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        # Python forgets a KeyboardInterrupt that comes while it forks, as it does for loader processes before the start.
        self._earlier_handler = handle(signal.SIGINT, self._remember)

    def teardown(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        if self._earlier_handler is not None:
            handle(signal.SIGINT, self._earlier_handler)

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.signum == signal.SIGINT and trainer.world_size == 1:
            raise KeyboardInterrupt  # there is no step to wait for
        self._began = self.clock()
        self._agree(trainer, module, 0)
        # Lightning has put its own handlers by now and restores the earlier ones after fit. Its SIGTERM handler may
        # raise between two batches, before anything is saved.
        for number in (signal.SIGTERM, signal.SIGINT):
            handle(number, self._remember)

    def _remember(self, signum: int, _: Any) -> None:
        if self.signum == signal.SIGINT == signum:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        self.signum = signum

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if module.batches_seen % trainer.accumulate_grad_batches:
            return
        if trainer.received_sigterm:
            self.signum = signal.SIGTERM
        reason = self.signum
        if not reason and self.max_sec is not None and self.train_sec >= self.max_sec:
            reason = OUT_OF_TIME
        if reason := self._agree(trainer, module, reason):
            self.out_of_time, self.signum = reason == OUT_OF_TIME, max(reason, 0)
            trainer.should_stop = True

    def _agree(self, trainer: pl.Trainer, module: Any, reason: int) -> int:
        """The reason to stop that any process has, 0 for none; tells the module the time, by the clock that is furthest."""
        sec = self.train_sec
        if trainer.world_size > 1:
            mine = torch.tensor([abs(reason), sec], dtype=torch.float64, device=trainer.strategy.root_device)
            code, sec = trainer.strategy.reduce(mine, reduce_op="max").tolist()
            reason = OUT_OF_TIME if code == abs(OUT_OF_TIME) else int(code)
        module.train_sec, module.time_share = sec, 0.0 if self.max_sec is None else min(1.0, sec / self.max_sec)
        return reason

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.signum:
            handle(signal.SIGINT, signal.SIG_IGN)  # all is saved: Ctrl-C once more would only disturb the end

    def state_dict(self) -> dict[str, Any]:
        return {"train_sec": self.train_sec}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._earlier_sec = state["train_sec"]


def handle(number: int, handler: Any) -> Any:
    """Sets a signal's handler and returns the earlier one; does nothing outside the main thread, which Python forbids."""
    if threading.current_thread() is threading.main_thread():
        return signal.signal(number, handler)
    return None


def parse_time(text: str) -> float:
    """Seconds of DD:HH:MM:SS. Raises ValueError for anything else."""
    try:
        days, hours, minutes, seconds = (int(part) for part in str(text).split(":"))
    except ValueError:
        how = "write days:hours:minutes:seconds, for instance 00:01:30:00"
        raise ValueError(f"trainer.max_time={text!r}: {how}") from None
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
