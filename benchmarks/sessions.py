"""Training sessions in processes of their own, forked from one that has imported everything, to be killed at will."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["benchmarks.sessions", "train", "pytorch_lightning"]


def preload(*modules: str) -> None:
    """Say, before the first session, what else its processes should find imported."""
    PRELOADED.extend(modules)
    FORKS.set_forkserver_preload(PRELOADED)


preload()


def _enter(log: str) -> None:
    """Make this process a session: one of its own group, with its output in a file, and the platform's defaults."""
    os.setsid()  # whatever it starts can be found by this number
    _yield_as_before()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # A child of a fork server would start its own children through that server too, and nobody's training does.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(1)


def _yield_as_before() -> None:
    """Linux schedules a new session as a group of its own, in which the niceness of a process says nothing to others."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice > 0:
        try:
            Path("/proc/self/autogroup").write_text(str(nice))
        except OSError:  # a system that has no such groups
            pass


def _train(arguments: Sequence[str], log: str, before: Callable[[], Any] | None) -> None:
    """train.py in this process."""
    _enter(log)
    from runtime.cli import launch
    from train import main

    if before is not None:
        before()
    sys.argv = ["train.py", *arguments]
    launch(main, "train")


def _call(function: Callable[..., Any], arguments: Sequence[Any], log: str) -> None:
    _enter(log)
    function(*arguments)


def start(arguments: Sequence[str], log: Path, before: Callable[[], Any] | None = None) -> multiprocessing.Process:
    """Starts train.py with these arguments; `before` (to be pickled) is called in the process first."""
    log.touch()  # a session that is killed at once has a log too
    process = FORKS.Process(target=_train, args=(list(arguments), str(log), before))
    process.start()
    return process


def start_call(function: Callable[..., Any], arguments: Sequence[Any], log: Path) -> multiprocessing.Process:
    """Starts a function that can be imported by its name."""
    process = FORKS.Process(target=_call, args=(function, list(arguments), str(log)))
    process.start()
    return process


def run(arguments: Sequence[str], log: Path, timeout: float = 120, before: Callable[[], Any] | None = None) -> int:
    """Exit code of a session."""
    process = start(arguments, log, before)
    process.join(timeout)
    assert process.exitcode is not None, f"session still runs: {log.read_text()[-500:]}"
    return process.exitcode


def wait_for(condition: Callable[[], Any], process: multiprocessing.Process, timeout: float = 60) -> None:
    """Until the condition holds or the process ends."""
    end = time.monotonic() + timeout
    while not condition() and process.is_alive():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def processes_of(session: int) -> list[int]:
    """Living processes that a session started, itself included, by what Linux tells of them; elsewhere none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent group session …: the name may hold spaces and brackets
            state, _, _, number = entry.read_text().rpartition(") ")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(number) == session and state not in "ZX":
            found.append(int(entry.parent.name))
    return found


def left_behind(session: int, within: float = 2.0) -> list[int]:
    """Processes of an ended session that still live after `within` seconds."""
    end = time.monotonic() + within
    while (found := processes_of(session)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def contents(run_dir: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was stopped."""
    newest = sorted((run_dir / "checkpoints").glob("step=*.ckpt"))[-1]
    ckpt = torch.load(newest, weights_only=True)
    logs = {key: value for key, value in ckpt["callbacks"].items() if not key.startswith("Stop")}
    kept = {key: ckpt[key] for key in ("state_dict", "ema", "optimizer_states", "counters", "data")}
    pictures = {p.name: p.read_bytes() for p in sorted((run_dir / "samples").glob("*.png"))}
    return {**kept, "callbacks": logs, "metrics": (run_dir / "metrics.jsonl").read_bytes(), "pictures": pictures}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal bit for bit, and of the same structure. Raises: AssertionError that names the first difference."""
    if type(a) is not type(b):
        raise AssertionError(f"{where}: {type(a).__name__} and {type(b).__name__}")
    if isinstance(a, dict):
        if list(a) != list(b):
            raise AssertionError(f"{where}: keys {list(a)} and {list(b)}"[:500])
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            raise AssertionError(f"{where}: {len(a)} and {len(b)} values")
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    elif not (torch.equal(a, b) if torch.is_tensor(a) else a == b):
        raise AssertionError(f"{where} differs")
