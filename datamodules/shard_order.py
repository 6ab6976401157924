"""Which sample of which shard: parts for training, validation and test, and an order that keeps few shards open at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rng.hashing import stable_hash
from rng.permutation import permuted


class Part:
    """The training, validation or test samples of all shards, as one list of which nothing is stored sample by sample.

    Of every `period` samples of a shard one is held out for validation and one for test; which two, the shard's name decides. A shard
    that is added or removed moves no sample of another shard from part to part.

    Args:
        names: of the shards.
        sizes: samples of each.
        period: at least 3.
        kind: train, val or test.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int], period: int, kind: str) -> None:
        self.period, self.kind = period, kind
        self.val = np.array([stable_hash("val", name) % period for name in names], np.int64)
        self.test = (self.val + 1 + np.array([stable_hash("test", name) % (period - 1) for name in names], np.int64)) % period
        whole, rest = np.divmod(np.array(sizes, np.int64), period)
        held = {"val": whole + (self.val < rest), "test": whole + (self.test < rest)}
        self.counts = held[kind] if kind != "train" else np.array(sizes, np.int64) - held["val"] - held["test"]
        self.ends = np.cumsum(self.counts)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def find(self, index: int) -> tuple[int, int]:
        """The number of a sample's shard, and of the sample in it."""
        shard = int(np.searchsorted(self.ends, index, side="right"))
        place = index - int(self.ends[shard] - self.counts[shard])
        val, test = int(self.val[shard]), int(self.test[shard])
        if self.kind != "train":
            return shard, place * self.period + (val if self.kind == "val" else test)
        whole, rest = divmod(place, self.period - 2)
        for held_out in sorted((val, test)):
            rest += rest >= held_out
        return shard, whole * self.period + rest


class ShardOrder:
    """A random order of all samples in which any stretch comes from a few shards: they are mixed in groups.

    The shards stand in a random order and are cut into groups of `mixed`; the samples of a group are in a random order, group after
    group. Both orders are other ones in every pass. A place is found from (seed, pass, place) alone.

    Args:
        counts: samples of each shard, in the order of the data set.
        mixed: shards of a group.
        seed: of the run.
    """

    def __init__(self, counts: np.ndarray, mixed: int, seed: int) -> None:
        self.counts, self.mixed, self.seed = counts, mixed, seed
        self.begins = np.cumsum(counts) - counts
        self._turn: int | None = None

    def __call__(self, turn: int, places: range) -> list[int]:
        """What stands at these places of the order of a pass."""
        self._lay(turn)
        wanted = np.arange(places.start, places.stop, places.step)
        groups = np.searchsorted(self._ends, wanted, side="right") // self.mixed
        found = np.empty_like(wanted)
        for group in np.unique(groups):
            here = groups == group
            first, last = group * self.mixed, min((group + 1) * self.mixed, len(self.counts)) - 1
            begin = self._ends[first] - self.counts[self._shards[first]]
            inside = permuted(torch.from_numpy(wanted[here] - begin), int(self._ends[last] - begin), "group", self.seed, turn, int(group))
            places_here = inside.numpy() + begin
            ranks = np.searchsorted(self._ends, places_here, side="right")
            shards = self._shards[ranks]
            found[here] = self.begins[shards] + places_here - (self._ends[ranks] - self.counts[shards])
        return found.tolist()

    def group(self, turn: int, place: int) -> int:
        """The group that a place of a pass is in."""
        self._lay(turn)
        return int(np.searchsorted(self._ends, place, side="right")) // self.mixed

    def shards_after(self, turn: int, group: int) -> list[int]:
        """The shards of the group that follows; after the last one the first of the next pass does."""
        begin = (group + 1) * self.mixed
        if begin >= len(self.counts):
            turn, begin = turn + 1, 0
        return self._shuffled(turn)[begin : begin + self.mixed].tolist()

    def _lay(self, turn: int) -> None:
        if self._turn != turn:
            self._shards = self._shuffled(turn)
            self._ends = np.cumsum(self.counts[self._shards])
            self._turn = turn

    def _shuffled(self, turn: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(stable_hash("shards", self.seed, turn))
        return torch.randperm(len(self.counts), generator=generator).numpy()
