"""Loader processes that end with the process they load for, and when they cannot hand over what they loaded."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from multiprocessing.queues import Queue
from typing import Any


def watched_worker(_: int) -> None:
    """Give it to a DataLoader as `worker_init_fn`: the worker ends where it would leave a process waiting for ever.

    When its parent is killed: torch's own watch looks every five seconds, and not at all under the start method
    "forkserver", where the parent that it watches is another. Until then a worker keeps files and locks of the killed run.

    When a batch does not fit into shared memory: Python drops it and goes on, and the training would wait for it.
    """
    Queue._on_queue_feeder_error = staticmethod(_end)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="end_with_parent").start()


def _end(error: Exception, _: Any) -> None:
    why = " ".join(str(error).split())
    print(f"warning: a loader process cannot hand over its batch and ends: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def _watch(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()  # waits for the end of a pipe that the parent holds, and so takes no time
    os._exit(1)
