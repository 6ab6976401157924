"""How long a training waits for its data."""

from __future__ import annotations

import time

from pytorch_lightning.profilers import Profiler

ACTION = "train_dataloader_next"  # the end of Lightning's name for fetching the next batch


class DataWait(Profiler):
    """Adds up the seconds in which the training loop waits for its next batch, and times nothing else.

    With `num_workers=0` this is the time in which batches are made; with workers it is what they do not hide.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since: float | None = None

    def start(self, action_name: str) -> None:
        if action_name.endswith(ACTION):
            self._since = time.monotonic()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(ACTION) and self._since is not None:
            self.seconds += time.monotonic() - self._since
            self._since = None
