"""The order stays what it is, and the shards of the next group are there before they are read."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from datamodules import fetch_ahead
from datamodules.fetch_ahead import FetchAhead
from datamodules.shard_order import ShardOrder

NAMES = [f"{i:02d}.tar" for i in range(20)]
COUNTS = np.array([5] * 20)


class Shards:
    """Notes which shards are opened, and by which thread."""

    def __init__(self, broken: bool = False) -> None:
        self.opened: list[str] = []
        self.threads: set[str] = set()
        self.broken = broken

    def open(self, name: str) -> int:
        self.threads.add(threading.current_thread().name)
        self.opened.append(name)
        if self.broken:
            raise OSError("the network has gone")
        return os.open(os.devnull, os.O_RDONLY)


def wait_for(condition) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_order_is_unchanged_and_each_next_group_is_fetched_once() -> None:
    order, files = ShardOrder(COUNTS, 6, seed=3), Shards()
    ahead = FetchAhead(ShardOrder(COUNTS, 6, seed=3), files, NAMES)
    for turn in (0, 1):
        for begin in range(0, 100, 4):
            here = turn, order.group(turn, begin + 3)
            assert ahead(turn, range(begin, begin + 4)) == order(turn, range(begin, begin + 4))
            due = {NAMES[shard] for shard in order.shards_after(*here)}
            assert wait_for(lambda due=due: due <= set(files.opened)), "before the group that is read ends"
    assert wait_for(lambda: len(files.opened) == 2 * len(NAMES)), files.opened
    time.sleep(0.1)
    assert len(files.opened) == 2 * len(NAMES), "not again for each batch"
    assert files.threads == {"fetch_ahead"}, "training does not wait for it"


def test_files_are_closed_and_a_failure_is_left_to_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, really = [], os.close
    monkeypatch.setattr(fetch_ahead.os, "close", lambda file: closed.append(file) or really(file))
    for files in (Shards(), Shards(broken=True)):
        ahead = FetchAhead(ShardOrder(COUNTS, 20, seed=3), files, NAMES)
        assert len(ahead(0, range(10))) == 10
        assert wait_for(lambda files=files: len(files.opened) >= (4 if files.broken else 20))
        assert wait_for(lambda: not any(t.name == "fetch_ahead" for t in threading.enumerate()))
        assert len(closed) == 20, "all of the first, none of the broken one"
