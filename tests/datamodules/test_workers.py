"""Loader processes end with their parent, however they were started, and when a batch cannot be handed over."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.workers import watched_worker
from tests.sessions import left_behind, wait_for


class Slow(Dataset):
    """Notes each worker's number in a folder, then works for longer than any test waits; torch's own watch sleeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        (self.folder / str(os.getpid())).touch()
        time.sleep(100)
        return index


def load(folder: Path, method: str) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)
    multiprocessing.set_forkserver_preload([])  # a server of its own, which needs no training
    settings = {"multiprocessing_context": method, "worker_init_fn": watched_worker}
    next(iter(DataLoader(Slow(folder), num_workers=2, **settings)))


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_of_a_killed_process_end(method: str, tmp_path: Path) -> None:
    parent = multiprocessing.get_context("forkserver").Process(target=load, args=(tmp_path, method))
    parent.start()
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, parent)
    workers = [int(p.name) for p in tmp_path.iterdir()]
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    left = left_behind(parent.pid, within=20)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


class NoRoom:
    """Cannot be sent to another process, as a batch that shared memory has no room for."""

    def __reduce__(self) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def test_a_worker_that_cannot_hand_over_its_batch_ends(capfd: pytest.CaptureFixture[str]) -> None:
    """Python would drop the batch, and the training would wait for it for ever."""
    loader = DataLoader([NoRoom()] * 4, num_workers=1, collate_fn=list, worker_init_fn=watched_worker)
    with pytest.raises(RuntimeError, match="^DataLoader worker .* exited unexpectedly"):
        next(iter(loader))
    assert "warning: a loader process cannot hand over its batch and ends: [Errno 27] File too large" in capfd.readouterr().err
