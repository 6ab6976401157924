"""Loader processes of a killed parent end, under every way of starting them and in the middle of their work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.workers import end_with_parent
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
    settings = {"multiprocessing_context": method, "worker_init_fn": end_with_parent}
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
