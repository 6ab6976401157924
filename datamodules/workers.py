"""Loader processes that end with the process they load for."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent(_: int) -> None:
    """Give it to a DataLoader as `worker_init_fn`: the worker ends at once when its parent is killed.

    torch's own watch looks every five seconds, and not at all under the start method "forkserver", where the parent
    that it watches is another. Until then a worker keeps files and locks of the killed run open.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="end_with_parent").start()


def _watch(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()  # waits for the end of a pipe that the parent holds, and so takes no time
    os._exit(1)
