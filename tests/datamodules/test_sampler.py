"""The order of a run is a pure function of (seed, batch): resuming, ranks and passes change nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from datamodules import sampler as sampler_file
from datamodules.sampler import EndlessBatchSampler, stable_hash


def test_hash_is_frozen():
    # Checkpoints depend on these numbers: they may never change.
    assert stable_hash("sample", 0, 0, 0) == 5903683999405475316
    assert stable_hash(np.int64(3), "a") == stable_hash(3, "a") != stable_hash("3", "a")
    assert all(0 <= stable_hash(i) < 2**63 for i in range(1000))


def test_hash_refuses_keys_without_a_stable_text():
    with pytest.raises(TypeError):
        stable_hash(0.1)


@pytest.fixture(params=["a table", "place by place"])
def order(request, monkeypatch):
    """Both ways to an order: a table, and for long ones none."""
    if request.param == "place by place":
        monkeypatch.setattr(sampler_file, "TABLE", 0)


@pytest.mark.parametrize("num_samples,batch_size", [(12, 4), (10, 4), (3, 8), (1, 2), (7, 7)])
def test_every_pass_shows_every_sample_once(num_samples, batch_size, order):
    batches = list(EndlessBatchSampler(num_samples, batch_size, 21, seed=5))
    assert len(batches) == 21 and all(len(b) == batch_size for b in batches)
    stream = [index for batch in batches for index, _ in batch]
    passes = [stream[i : i + num_samples] for i in range(0, len(stream) - num_samples + 1, num_samples)]
    assert all(sorted(p) == list(range(num_samples)) for p in passes)
    if num_samples > 6:
        assert len({tuple(p) for p in passes}) == len(passes)


def test_sample_seeds_are_all_different():
    seeds = Counter(seed for batch in EndlessBatchSampler(10, 5, 40, seed=0) for _, seed in batch)
    assert len(seeds) == 200


@pytest.mark.parametrize("start", [0, 1, 4, 5, 19, 20])
def test_resuming_gives_the_rest_of_the_same_run(start, order):
    whole = list(EndlessBatchSampler(10, 4, 20, seed=1))
    resumed = EndlessBatchSampler(10, 4, 20, seed=1)
    resumed.start = start
    assert list(resumed) == whole[start:]
    assert len(resumed) == 20
    assert list(resumed) == whole[start:]  # iterating has no memory


def test_a_longer_run_begins_like_a_shorter_one():
    assert list(EndlessBatchSampler(10, 4, 50, seed=1))[:20] == list(EndlessBatchSampler(10, 4, 20, seed=1))


def test_another_seed_is_another_order(order):
    assert list(EndlessBatchSampler(10, 4, 5, seed=1)) != list(EndlessBatchSampler(10, 4, 5, seed=2))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_partition_every_global_batch(monkeypatch, world, order):
    whole = list(EndlessBatchSampler(10, 8, 6, seed=1))
    parts = []
    for rank in range(world):
        monkeypatch.setattr(sampler_file, "rank_and_world", lambda rank=rank: (rank, world))
        parts.append(list(EndlessBatchSampler(10, 8, 6, seed=1)))
    for batch, pieces in zip(whole, zip(*parts)):
        assert sorted(key for piece in pieces for key in piece) == sorted(batch)
        assert [len(piece) for piece in pieces] == [8 // world] * world


def test_a_share_is_every_so_manieth_of_the_batch(order):
    sampler = EndlessBatchSampler(10, 12, 6, seed=1)  # batches that reach into the next pass
    for batch in range(6):
        assert [sampler.share(batch, rank, 4) for rank in range(4)] == [sampler.share(batch)[rank::4] for rank in range(4)]


def test_a_billion_samples_need_no_table():
    sampler = EndlessBatchSampler(10**9, 2048, 10**7, seed=0)
    last = 10**9 // 2048  # the batch in which the first pass ends
    keys = [key for batch in (0, 1, 123_456, last, 5_000_000) for key in sampler.share(batch)]
    assert len({seed for _, seed in keys}) == len(keys) and max(index for index, _ in keys) < 10**9
    assert sampler._order is None
    assert sampler.share(last, 3, 8) == sampler.share(last)[3::8]


def test_ranks_must_divide_the_batch(monkeypatch):
    monkeypatch.setattr(sampler_file, "rank_and_world", lambda: (0, 3))
    with pytest.raises(ValueError, match="batch_size 8 is global and must be a multiple of the 3 processes"):
        next(iter(EndlessBatchSampler(10, 8, 6, seed=1)))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        EndlessBatchSampler(*sizes, seed=0)


def test_a_start_outside_the_run_is_refused():
    with pytest.raises(ValueError, match="start 7 lies outside the run of 6 batches"):
        next(iter(EndlessBatchSampler(10, 4, 6, seed=0, start=7)))


def test_sample_seeds_belong_to_the_run_the_pass_and_the_sample():
    runs = [EndlessBatchSampler(20, 20, 3, seed) for seed in (0, 1)]
    seeds = [dict(sampler.share(turn)) for sampler in runs for turn in range(3)]
    assert len({value for found in seeds for value in found.values()}) == 6 * 20, "no two alike"
    assert seeds[1][7] == stable_hash("sample", 0, 1, 7)
