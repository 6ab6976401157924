from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from networks.text import store as store_module
from networks.text.store import ENTRY, EmbeddingStore, caption_key

fork = multiprocessing.get_context("fork")


def record(i: int) -> tuple[np.ndarray, int]:
    """What belongs under caption number i, of a length that depends on i."""
    return np.random.default_rng(i).standard_normal(50 + i % 97).astype(np.float16), i % 300


def records(numbers: range | list[int]) -> dict[bytes, tuple[np.ndarray, int]]:
    return {caption_key(str(i)): record(i) for i in numbers}


def assert_holds(store: EmbeddingStore, numbers: range | list[int]) -> None:
    for i in numbers:
        found = store.get(caption_key(str(i)))
        assert found is not None, i
        np.testing.assert_array_equal(found[0], record(i)[0])
        assert found[1] == record(i)[1]


def test_keys_differ_and_survive_numpy() -> None:
    keys = [caption_key(str(i)) for i in range(5000)]
    assert len(set(keys)) == 5000 and np.array(keys, "S16").tolist() == keys


def test_round_trip_through_a_new_object(tmp_path: Path) -> None:
    first = EmbeddingStore(tmp_path)
    first.append(records(range(10)))
    first.append(records(range(5, 20)))  # half of them known
    assert_holds(first, range(20))
    assert first.get(caption_key("20")) is None
    second = EmbeddingStore(tmp_path)
    assert_holds(second, range(20))
    assert os.path.getsize(tmp_path / "index.bin") == 20 * ENTRY.itemsize
    assert os.path.getsize(tmp_path / "embeds.bin") == sum(record(i)[0].nbytes for i in range(20))


@pytest.mark.parametrize("data_tail, index_tail", [(b"x" * 33, b""), (b"x" * 33, b"y" * 7), (b"", b"y" * 39)])
def test_torn_tail_is_not_read_and_is_cut(tmp_path: Path, data_tail: bytes, index_tail: bytes) -> None:
    EmbeddingStore(tmp_path).append(records(range(10)))
    for name, tail in (("embeds.bin", data_tail), ("index.bin", index_tail)):
        with open(tmp_path / name, "ab") as file:
            file.write(tail)
    after = EmbeddingStore(tmp_path)
    assert len(after.rows) == 10
    assert_holds(after, range(10))
    after.append(records(range(10, 15)))
    assert_holds(EmbeddingStore(tmp_path), range(15))
    assert os.path.getsize(tmp_path / "index.bin") == 15 * ENTRY.itemsize
    assert os.path.getsize(tmp_path / "embeds.bin") == sum(record(i)[0].nbytes for i in range(15))


@pytest.mark.parametrize("blob", [b"\0" * ENTRY.itemsize, b"\xff" * ENTRY.itemsize, bytes(range(ENTRY.itemsize))],
                         ids=["zeros", "ones", "bytes"])
def test_an_entry_of_rubbish_is_passed_over(tmp_path: Path, blob: bytes) -> None:
    EmbeddingStore(tmp_path).append(records(range(3)))
    with open(tmp_path / "index.bin", "ab") as file:
        file.write(blob)
    after = EmbeddingStore(tmp_path)
    assert len(after.rows) == 3
    after.append(records(range(3, 6)))
    assert_holds(EmbeddingStore(tmp_path), range(6))


def test_damaged_or_lost_record_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path).append(records(range(5)))
    data = bytearray((tmp_path / "embeds.bin").read_bytes())
    data[10] ^= 1  # in record 0
    (tmp_path / "embeds.bin").write_bytes(data[:-20])  # and the end of record 4 is gone
    after = EmbeddingStore(tmp_path)
    assert after.get(caption_key("0")) is None and after.get(caption_key("4")) is None
    assert_holds(after, [1, 2, 3])
    after.append(records([0, 4]))
    assert_holds(after, range(5))
    assert_holds(EmbeddingStore(tmp_path), range(5))


def test_reader_sees_what_another_object_wrote(tmp_path: Path) -> None:
    one, two = EmbeddingStore(tmp_path), EmbeddingStore(tmp_path)
    one.append(records(range(4)))
    two.append(records(range(2, 8)))
    one.refresh()
    assert_holds(one, range(8))
    assert os.path.getsize(tmp_path / "index.bin") == 8 * ENTRY.itemsize


def write_loop(folder: Path, seed: int, rounds: int) -> None:
    rng, store = random.Random(seed), EmbeddingStore(folder)
    for _ in range(rounds):
        store.append(records([rng.randrange(400) for _ in range(5)]))


def test_processes_write_at_once(tmp_path: Path) -> None:
    workers = [fork.Process(target=write_loop, args=(tmp_path, seed, 40)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    store = EmbeddingStore(tmp_path)
    expected = sorted({rng.randrange(400) for rng in map(random.Random, range(3)) for _ in range(200)})
    assert len(store.rows) == len(expected) == store.num_read  # nothing lost, nothing twice
    assert_holds(store, expected)


def write_in_pieces(folder: Path, seed: int, allowed: Any, written: Any) -> None:
    """Write for ever, each file in pieces; `allowed` lets one more piece be written, `written` counts them."""
    whole = store_module.write_at

    def in_pieces(path: Path, offset: int, data: bytes) -> None:
        for end in [*range(16, len(data), 16), len(data)]:
            allowed.acquire()
            whole(path, offset, data[:end])
            written.release()

    store_module.write_at = in_pieces
    write_loop(folder, seed, 10**9)


def test_kills_lose_nothing_that_was_indexed(tmp_path: Path) -> None:
    rng, torn, seen = random.Random(0), 0, set()
    for seed in range(12):
        allowed, written = fork.Semaphore(0), fork.Semaphore(0)
        worker = fork.Process(target=write_in_pieces, args=(tmp_path, seed, allowed, written))
        worker.start()
        for _ in range(rng.randrange(1, 400)):
            allowed.release()
            assert written.acquire(timeout=60)
        os.kill(worker.pid, signal.SIGKILL)  # the writer waits for leave to write its next piece
        worker.join()
        store = EmbeddingStore(tmp_path)
        torn += os.path.getsize(tmp_path / "embeds.bin") > store.data_end
        assert seen <= set(store.rows)
        numbers = [i for i in range(400) if caption_key(str(i)) in store.rows]
        assert len(numbers) == len(store.rows)
        assert_holds(store, numbers)
        seen = set(store.rows)
    assert torn >= 6, "few kills fell into a write: the test has shown little"
    assert len(seen) > 20, "hardly anything was indexed: the test has shown little"


def test_a_long_torn_tail_is_cut_by_a_short_write(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path).append(records(range(3)))
    for name in ("embeds.bin", "index.bin"):
        with open(tmp_path / name, "ab") as file:
            file.write(b"z" * 10_003)
    EmbeddingStore(tmp_path).append(records([3]))
    assert_holds(EmbeddingStore(tmp_path), range(4))
    assert os.path.getsize(tmp_path / "embeds.bin") == sum(record(i)[0].nbytes for i in range(4))
