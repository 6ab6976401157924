"""Parts and orders of shards: every sample once, in one part, and from few shards at a time."""

from __future__ import annotations

import time

import numpy as np
import pytest

from datamodules.shard_order import Part, ShardOrder

NAMES, SIZES = [f"{i:05d}.tar" for i in range(40)], [i * 7 % 31 for i in range(40)]


def members(names: list[str], sizes: list[int], period: int, kind: str) -> list[tuple[str, int]]:
    part = Part(names, sizes, period, kind)
    return [(names[shard], row) for shard, row in map(part.find, range(len(part)))]


@pytest.mark.parametrize("period", [3, 4, 10, 100])
def test_every_sample_is_in_one_part(period: int) -> None:
    parts = [members(NAMES, SIZES, period, kind) for kind in ("train", "val", "test")]
    everything = [(name, row) for name, size in zip(NAMES, SIZES) for row in range(size)]
    assert sorted(sum(parts, [])) == everything and all(part == sorted(part) for part in parts)
    for held_out in parts[1:]:
        assert abs(len(held_out) - len(everything) / period) < 3 * np.sqrt(len(NAMES))


def test_other_shards_move_no_sample() -> None:
    for kind in ("train", "val", "test"):
        all_of_them, some = members(NAMES, SIZES, 5, kind), members(NAMES[::3], SIZES[::3], 5, kind)
        assert some == [(name, row) for name, row in all_of_them if name in NAMES[::3]]


def test_what_is_held_out_differs_from_shard_to_shard() -> None:
    firsts = [row for _, row in members(NAMES, [10] * 40, 10, "val")]
    assert len(firsts) == 40 and len(set(firsts)) > 7, "a habit of the writer must not choose validation"


def test_nothing_is_a_part_of_nothing() -> None:
    assert len(Part([], [], 5, "train")) == 0 and len(Part(["a"], [0], 5, "val")) == 0


@pytest.mark.parametrize("mixed", [1, 3, 40, 1000])
def test_a_pass_holds_every_sample_once(mixed: int) -> None:
    counts = np.array(SIZES)
    order, total = ShardOrder(counts, mixed, seed=1), sum(SIZES)
    passes = [order(turn, range(total)) for turn in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(total)) and passes[0] != passes[1]
    assert passes[0] != ShardOrder(counts, mixed, seed=2)(0, range(total))


def test_a_place_is_a_function_of_seed_pass_and_place() -> None:
    whole = ShardOrder(np.array(SIZES), 3, seed=1)(4, range(sum(SIZES)))
    fresh = ShardOrder(np.array(SIZES), 3, seed=1)
    fresh(0, range(5))
    assert fresh(4, range(100, 160, 2)) == whole[100:160:2] and fresh(4, range(sum(SIZES) - 3, sum(SIZES))) == whole[-3:]


def test_a_stretch_comes_from_few_shards_and_mixes_them() -> None:
    counts = np.full(60, 100)
    found = np.array(ShardOrder(counts, 4, seed=0)(0, range(6000))) // 100
    for begin in range(0, 6000, 400):
        assert len(set(found[begin : begin + 400])) == 4
        assert len(set(found[begin : begin + 40])) == 4, "a group's samples are mixed"
    groups = [set(found[begin : begin + 400]) for begin in range(0, 6000, 400)]
    other = np.array(ShardOrder(counts, 4, seed=1)(0, range(6000))) // 100
    assert groups != [set(other[begin : begin + 400]) for begin in range(0, 6000, 400)], "which shards are mixed depends on the seed"


def test_a_billion_samples_cost_the_shards_alone() -> None:
    counts = np.full(100_000, 10_000)
    order = ShardOrder(counts, 32, seed=0)
    found = order(0, range(999_990_000, 1_000_000_000))
    begin = time.process_time()
    order(0, range(123_456_789, 123_456_789 + 2048))
    print(f"{time.process_time() - begin:.4f} s for 2,048 places")
    assert len(set(found)) == 10_000 and len({index // 10_000 for index in found}) <= 32


@pytest.mark.parametrize("mixed", [1, 3, 7, 40, 1000])
def test_the_shards_that_follow_are_those_read_next(mixed: int) -> None:
    counts = np.array([5] * 40)
    order, shard_of = ShardOrder(counts, mixed, seed=1), np.repeat(np.arange(40), 5)
    read = [(turn, order.group(turn, place), int(shard_of[index])) for turn in (0, 1) for place, index in enumerate(order(turn, range(200)))]
    groups = list(dict.fromkeys((turn, group) for turn, group, _ in read))
    assert len(groups) == 2 * -(-40 // mixed)
    for now, following in zip(groups, groups[1:]):
        shards = order.shards_after(*now)
        assert len(shards) == len(set(shards)) and set(shards) == {shard for *at, shard in read if tuple(at) == following}
