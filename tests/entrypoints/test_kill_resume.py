"""Runs that are killed and resumed against runs that are not: weights, average, optimiser and records bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.sessions import assert_same, contents, left_behind, overrides, run, start, start_call, wait_for

# Every step is saved and takes a while, so that kills fall into all of training, logging, sampling and saving.
SLOW = ("model.sleep_sec=0.02", "callbacks.checkpoint.every_steps=1", "trainer.max_steps=24")
VARIANTS = {
    "plain": (),
    "accumulate": ("trainer.accumulate=3", "callbacks.checkpoint.every_steps=2"),
    "workers": ("data.num_workers=1", "callbacks.checkpoint.every_steps=3"),
    "nan": ("model.nan_at=[3,11]", "callbacks.checkpoint.every_sec=0.05"),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Variant -> contents of its run that nobody stopped, computed once."""
    done = {}

    def get(variant: str) -> dict:
        if variant not in done:
            folder = tmp_path_factory.mktemp(variant)
            path, log = folder / "run", folder / "log"
            assert run(overrides(*SLOW, *VARIANTS[variant], run=path), log) == 0, log.read_text()
            done[variant] = contents(path)
        return done[variant]

    return get


def kill(process: multiprocessing.Process) -> int:
    """Exit code after a SIGKILL, which may come too late; whatever the session had started must end with it."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.join()
    assert not left_behind(process.pid, within=20)
    return process.exitcode


def resume_until_done(path: Path, log: Path, kills: int, rng: random.Random) -> int:
    """Resumes, SIGKILLs at random times `kills` times, lets the last session end; returns the kills that hit."""
    hits = 0
    for _ in range(kills):
        process = start([f"resume={path}"], log)
        seen = log.read_text().count("run: ") if log.exists() else 0
        wait_for(lambda: log.exists() and log.read_text().count("run: ") > seen, process)
        time.sleep(rng.uniform(0.1, 0.6))
        hits += kill(process) == -signal.SIGKILL
    assert run([f"resume={path}"], log) == 0, log.read_text()[-2000:]
    return hits


@pytest.mark.parametrize("variant", ["plain", pytest.param("accumulate", marks=pytest.mark.slow), "workers", "nan"])
def test_random_kills_change_nothing(variant: str, uninterrupted, tmp_path: Path) -> None:
    rng, path, log = random.Random(variant), tmp_path / "run", tmp_path / "log"
    process = start(overrides(*SLOW, *VARIANTS[variant], run=path), log)
    wait_for(lambda: log.exists() and "run: " in log.read_text(), process)
    time.sleep(rng.uniform(0.1, 0.6))
    hits = (kill(process) == -signal.SIGKILL) + resume_until_done(path, log, 2, rng)
    assert hits >= 1, "every session ended before it was killed: sleep longer in a step"
    assert_same(contents(path), uninterrupted(variant))
    assert not list(path.rglob("*.tmp-*"))


def test_sessions_start_workers_as_a_training_does(tmp_path: Path) -> None:
    """A child of multiprocessing's fork server would start its workers there too, which no user's training does."""
    seen = tmp_path / "seen"
    process = start_call(note_start_method, [str(seen)], tmp_path / "log")
    process.join()
    assert seen.read_text() == multiprocessing.get_start_method()


def note_start_method(path: str) -> None:
    Path(path).write_text(multiprocessing.get_start_method())


def stop_midway(path: Path, log: Path, signum: int, *more: str) -> int:
    process = start(overrides(*SLOW, "model.sleep_sec=0.05", *more, run=path), log)
    wait_for(lambda: len(list((path / "checkpoints").glob("*.ckpt"))) > 1, process)
    os.kill(process.pid, signum)
    process.join(60)
    return process.exitcode


def test_sigterm_saves_and_exits_143(uninterrupted, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    code = stop_midway(path, log, signal.SIGTERM, "callbacks.checkpoint.every_steps=2")
    assert code == 143, log.read_text()
    assert "stopped by SIGTERM at step" in log.read_text() and f"resume={path}" in log.read_text()
    assert run([f"resume={path}"], log) == 0, log.read_text()
    assert_same(contents(path), uninterrupted("plain"))


def test_ctrl_c_saves_and_exits_130(uninterrupted, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert stop_midway(path, log, signal.SIGINT) == 130, log.read_text()
    assert run([f"resume={path}"], log) == 0, log.read_text()
    assert_same(contents(path), uninterrupted("plain"))


def test_a_damaged_newest_checkpoint_falls_back(uninterrupted, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert stop_midway(path, log, signal.SIGKILL) == -signal.SIGKILL
    newest = sorted((path / "checkpoints").glob("*.ckpt"))[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    assert run([f"resume={path}"], log) == 0, log.read_text()
    assert f"{newest} is damaged" in log.read_text()
    assert_same(contents(path), uninterrupted("plain"))


def test_a_run_killed_before_its_first_checkpoint_starts_over(uninterrupted, tmp_path: Path) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    assert stop_midway(path, log, signal.SIGKILL) == -signal.SIGKILL
    for checkpoint in (path / "checkpoints").glob("*.ckpt"):
        checkpoint.unlink()
    assert run([f"resume={path}"], log) == 0, log.read_text()
    assert "no checkpoint yet" in log.read_text()
    assert_same(contents(path), uninterrupted("plain"))
