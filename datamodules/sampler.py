"""The order of a whole training run as a pure function of (seed, batch number), so that resuming changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from rng.hashing import stable_hash
from rng.permutation import permuted

TABLE = 2**22  # samples up to which an order is a table, 32 MiB; longer ones are computed place by place
Key = tuple[int, int]  # (index into the dataset, sample seed)
Order = Callable[[int, range], list[int]]  # number of a pass, and places in it, to indices


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


class EndlessBatchSampler(Sampler):
    """Yield this rank's part of every global batch of a run, as lists of (index, sample seed).

    The run reads one endless stream: pass after pass over the data, each in its own random order. Batch b is positions
    [b * batch_size, (b + 1) * batch_size) of it, so every sample is seen once per pass, also where the batch size
    does not divide the data set or exceeds it. The sample seed depends on (seed, pass, index) only.

    Args:
        num_samples: samples in one pass.
        batch_size: global batch size, over all ranks; rank r of w takes the samples [r::w] of each batch.
        num_batches: batches of the whole run; len() stays this number after a resume.
        seed: of the run.
        start: the first batch to yield; set `.start` when resuming.
        order: which samples stand at some places of a pass; None takes a random order of all.
    Raises: ValueError for sizes below 1, a start outside the run, or ranks that do not divide the batch size.
    """

    def __init__(self, num_samples: int, batch_size: int, num_batches: int, seed: int, start: int = 0, order: Order | None = None) -> None:
        for name, value in (("num_samples", num_samples), ("batch_size", batch_size), ("num_batches", num_batches)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.num_samples, self.batch_size, self.num_batches = num_samples, batch_size, num_batches
        self.seed, self.start, self.order = seed, start, order
        self._order: tuple[int, torch.Tensor] | None = None
        # Lightning looks for `batch_sampler.sampler` (to call set_epoch on it); it need find nothing else than this.
        self.sampler = self

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Key]]:
        rank, world = rank_and_world()
        if self.batch_size % world:
            raise ValueError(f"batch_size {self.batch_size} is global and must be a multiple of the {world} processes")
        if not 0 <= self.start <= self.num_batches:
            raise ValueError(f"start {self.start} lies outside the run of {self.num_batches} batches")
        for batch in range(self.start, self.num_batches):
            yield self.share(batch, rank, world)

    def share(self, batch: int, rank: int = 0, world: int = 1) -> list[Key]:
        """One rank's keys of batch number `batch`; of the only rank, all of them."""
        keys: list[Key] = []
        position, end = batch * self.batch_size + rank, (batch + 1) * self.batch_size
        while position < end:
            turn, offset = divmod(position, self.num_samples)
            places = range(offset, min(self.num_samples, offset + end - position), world)
            for index in self._indices(turn, places):
                keys.append((index, stable_hash("sample", self.seed, turn, index)))
            position += len(places) * world
        return keys

    def _indices(self, turn: int, places: range) -> list[int]:
        """What stands at these places of the order of a pass."""
        if self.order is not None:
            return self.order(turn, places)
        if self.num_samples > TABLE:
            return permuted(torch.arange(places.start, places.stop, places.step), self.num_samples, "order", self.seed, turn).tolist()
        if self._order is None or self._order[0] != turn:
            generator = torch.Generator().manual_seed(stable_hash("order", self.seed, turn))
            self._order = (turn, torch.randperm(self.num_samples, generator=generator))
        return self._order[1][places.start : places.stop : places.step].tolist()
