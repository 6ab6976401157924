"""Fetching the next shards of a URL while the present ones are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from datamodules.shard_files import RemoteShards
from datamodules.shard_order import ShardOrder

THREADS = 4  # at a time: one connection rarely uses the whole network


class FetchAhead:
    """The order of `ShardOrder`, unchanged; where it comes to a group of shards, those of the next group are fetched.

    The loader's main process asks for the order, so that its reading processes find the files. They fetch what is not there yet
    themselves, as they do the first group.

    Args:
        order: the order.
        files: where the shards lie.
        names: of the shards, by their numbers in the order.
    """

    def __init__(self, order: ShardOrder, files: RemoteShards, names: Sequence[str]) -> None:
        self.order, self.files, self.names = order, files, names
        self._at: tuple[int, int] | None = None

    def __call__(self, turn: int, places: range) -> list[int]:
        """As of the order."""
        at = turn, self.order.group(turn, places[-1])
        if at != self._at:
            self._at = at
            shards = self.order.shards_after(*at)
            for first in range(min(THREADS, len(shards))):
                threading.Thread(target=self._fetch, args=(shards[first::THREADS],), daemon=True, name="fetch_ahead").start()
        return self.order(turn, places)

    def _fetch(self, shards: Sequence[int]) -> None:
        for shard in shards:
            try:
                os.close(self.files.open(self.names[shard]))
            except OSError:
                return  # who needs it will meet the same, and say so
