"""Training sessions in processes of their own, forked from one that has imported everything, to be killed at will."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.toy import overrides

torch.set_num_threads(1)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.sessions", "train", "pytorch_lightning"])


def session(arguments: Sequence[str], log: str) -> None:
    """train.py in this process, its output appended to a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from runtime.cli import launch
    from train import main

    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    launch(main, "train")


def start(arguments: Sequence[str], log: Path) -> multiprocessing.Process:
    process = FORKS.Process(target=session, args=(list(arguments), str(log)))
    process.start()
    return process


def run(arguments: Sequence[str], log: Path, timeout: float = 120) -> int:
    """Exit code of a session."""
    process = start(arguments, log)
    process.join(timeout)
    assert process.exitcode is not None, f"session still runs: {log.read_text()[-500:]}"
    return process.exitcode


def wait_for(condition, process: multiprocessing.Process, timeout: float = 60) -> None:
    """Until the condition holds or the process ends."""
    end = time.monotonic() + timeout
    while not condition() and process.is_alive():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def contents(run_dir: Path) -> dict:
    """All that must not depend on how often a run was stopped."""
    newest = sorted((run_dir / "checkpoints").glob("step=*.ckpt"))[-1]
    ckpt = torch.load(newest, weights_only=True)
    logs = {key: value for key, value in ckpt["callbacks"].items() if not key.startswith("Stop")}
    kept = {key: ckpt[key] for key in ("state_dict", "ema", "optimizer_states", "counters", "data")}
    pictures = {p.name: p.read_bytes() for p in sorted((run_dir / "samples").glob("*.png"))}
    return {**kept, "callbacks": logs, "metrics": (run_dir / "metrics.jsonl").read_bytes(), "pictures": pictures}


def assert_same(a, b, where: str = "") -> None:
    """Equal bit for bit, and of the same structure."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    elif torch.is_tensor(a):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


__all__ = ["FORKS", "assert_same", "contents", "overrides", "run", "start", "wait_for"]
