"""One writer per run directory, nothing left of a start that failed, and `latest` is the run that saved last."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime import run_dir
from runtime.config import compose

HOLD = """
import sys, time
from pathlib import Path
from runtime import run_dir
run_dir.lock(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(100)
"""
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def locked(tmp_path: Path):
    run_dir.lock(tmp_path)
    yield tmp_path
    run_dir.unlock(tmp_path)


def test_a_second_process_is_told_who_has_the_run(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=rf"in use by process {other.pid} on \S+, started 2.*: wait for it or stop"):
            run_dir.lock(tmp_path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    run_dir.lock(tmp_path)  # the killed process's file is still there, and is no obstacle
    assert f'"pid": {os.getpid()}' in (tmp_path / "lock").read_text()
    run_dir.unlock(tmp_path)


def free(path: Path) -> bool:
    """Whether nobody has the lock: another open file of the same process would be refused, too."""
    with open(path / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("keep", [False, True])
def test_forked_children_hold_the_lock_only_if_they_train(keep: bool, locked: Path) -> None:
    run_dir.children_keep_locks(keep)
    child = os.fork()
    if not child:
        time.sleep(100)
        os._exit(0)
    try:
        time.sleep(0.2)
        run_dir.unlock(locked)  # as if this process were killed
        assert free(locked) != keep
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        run_dir.children_keep_locks(False)
    assert free(locked)


def test_a_child_that_lets_go_leaves_the_lock_to_its_parent(locked: Path) -> None:
    child = os.fork()
    if not child:
        run_dir.unlock_all()
        os._exit(0)
    os.waitpid(child, 0)
    assert not free(locked)
    assert not os.get_inheritable(run_dir._locks[locked])  # nor do programs that are started get it


def test_a_file_system_without_locks_is_said_once(tmp_path: Path, monkeypatch, capsys) -> None:
    def refuse(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run_dir.lock(tmp_path)
    assert "is not protected from a second process: No locks available" in capsys.readouterr().out


def config(runs: Path, *more: str):
    return compose("train", ["model=vae", f"paths.runs={runs}", *more])


def test_two_starts_in_one_second_get_directories_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    paths = [run_dir.choose(config(tmp_path)) for _ in range(3)]
    assert [p.name for p in paths] == ["now", "now-2", "now-3"] and all(p.is_dir() for p in paths)
    for path in reversed(paths):
        run_dir.discard(path)
    assert not list(tmp_path.iterdir())


def start(tmp_path: Path, *more: str) -> Path:
    cfg = config(tmp_path / "runs", *more)
    path = run_dir.choose(cfg)
    cfg.run_dir = str(path)
    run_dir.create(path, cfg)
    run_dir.unlock(path)
    return path


def test_a_start_that_failed_leaves_nothing(tmp_path: Path) -> None:
    path = start(tmp_path)
    assert {p.name for p in path.iterdir()} == {"config.yaml", "resume.yaml", "lock", "checkpoints"}
    run_dir.discard(path)
    assert not list(tmp_path.iterdir())
    run_dir.discard(path)  # nothing to do


def test_what_is_of_value_stays(tmp_path: Path) -> None:
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    path = start(tmp_path, "name=a")
    (path / "notes.txt").write_text("mine")
    run_dir.discard(path)
    assert (path / "resume.yaml").exists()
    path = start(tmp_path, "name=b")
    run_dir.keep(path)  # it has begun
    run_dir.discard(path)
    assert (path / "resume.yaml").exists()
    own = tmp_path / "own"
    own.mkdir()
    assert start(tmp_path, f"run_dir={own}") == own
    run_dir.discard(own)
    assert own.is_dir() and not list(own.iterdir())  # the folder was there before


def test_a_start_in_a_run_of_another_process_leaves_that_alone(tmp_path: Path, monkeypatch) -> None:
    path = start(tmp_path, "name=a")
    before = {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}
    run_dir.keep(path)

    def taken(*_) -> None:
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", taken)
    with pytest.raises(ValueError, match="is in use by process"):
        start(tmp_path, "name=a")
    run_dir.discard(path)
    assert {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()} == before


def test_a_full_disk_at_the_start_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(run_dir, "write_text", full)
    with pytest.raises(ValueError, match="^the run did not start: .*no space left on the disk: .* MB free$"):
        start(tmp_path, "name=a")
    path = tmp_path / "runs" / "vae" / "garments" / "a"
    run_dir.unlock(path)
    run_dir.discard(path)
    assert not list(tmp_path.iterdir())


def test_latest_is_refused_where_a_later_run_has_saved_nothing(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    a = start(tmp_path, "name=a")
    (a / "checkpoints" / "step=00000001.ckpt").touch()
    run_dir.point_latest(runs, a)
    assert run_dir.find("latest", runs) == a
    b = start(tmp_path, "name=b")
    later = time.time() + 10
    os.utime(b / "resume.yaml", (later, later))
    os.utime(a / "resume.yaml", (later + 1, later + 1))  # as when it was resumed
    with pytest.raises(ValueError, match=r"resume=latest is .*/a, but .*/b was started later and has no checkpoint yet"):
        run_dir.find("latest", runs)
    assert run_dir.find(str(a), runs) == a and run_dir.find("vae/garments/b", runs) == b
    (b / "checkpoints" / "step=00000001.ckpt").touch()
    assert run_dir.find("latest", runs) == a
