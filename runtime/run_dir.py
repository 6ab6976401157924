"""Run directories: choosing one, locking it for one writer, finding it again, and removing leftovers."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from files import parse_json, why_not_written, write_text

CONFIG, SOURCE = "config.yaml", "resume.yaml"  # resolved, to be read; with interpolations, for resume=RUN
LOCK = "lock"
EMPTY = ("checkpoints", "samples", "metrics.jsonl", "timing.jsonl")  # of no value while they are empty

_locks: dict[Path, int] = {}  # run directory -> open file, of the runs that this process writes
_made: dict[Path, list[Path]] = {}  # run directory -> folders that this process made for a run which is still to begin
_children_keep_locks = False


def choose(cfg: DictConfig) -> Path:
    """The directory of a new run. One named by date and time is made at once, so that no other start gets it.

    Raises: ValueError if it holds a run already or cannot be made.
    """
    path = place(cfg)
    path = path if cfg.run_dir is not None or cfg.name else _reserve(path)
    _refuse_a_run(path)
    return path


def place(cfg: DictConfig) -> Path:
    """Where the directory of a new run belongs; without a name it is called by the date and time."""
    if cfg.run_dir is not None:
        return Path(cfg.run_dir).resolve()
    parent = (Path(cfg.paths.runs) / str(cfg.choices.model) / str(cfg.choices.data)).resolve()
    return parent / (cfg.name or time.strftime("%Y-%m-%d_%H-%M-%S"))


def create(path: Path, cfg: DictConfig) -> None:
    """Makes the directory of a new run, takes its lock and writes the configuration; of an old one, the configuration.

    Raises: ValueError, with nothing left behind, if it holds a run of somebody else or cannot be written.
    """
    new = not (path / SOURCE).exists()
    try:
        if new:
            _make(path)
        try:
            lock(path)
        except ValueError:
            keep(path)  # its files belong to another process
            raise
        if new:
            _refuse_a_run(path)  # another process may have come and gone since it was chosen
        (path / "checkpoints").mkdir(exist_ok=True)
        save_config(path, cfg)
    except OSError as error:
        raise ValueError(f"the run did not start: {why_not_written(error, path)}") from None


def discard(path: Path) -> None:
    """Removes the directory that this process made for a run that saved nothing, if it holds no other files."""
    folders = _made.pop(path, None)
    if folders is None or not path.is_dir():
        return
    rubbish = {CONFIG, SOURCE, LOCK, *(name for name in EMPTY if _is_empty(path / name))}
    if {p.name for p in path.iterdir()} <= rubbish:
        for name in rubbish:
            (path / name).rmdir() if (path / name).is_dir() else (path / name).unlink(missing_ok=True)
        for folder in reversed(folders):
            if not any(folder.iterdir()):
                folder.rmdir()


def keep(path: Path) -> None:
    """From now on `discard` leaves the directory alone."""
    _made.pop(path, None)


def _is_empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.exists() and not path.stat().st_size


def holds_run(path: Path) -> bool:
    """Whether a run has begun in a directory."""
    return any((path / "checkpoints").glob("step=*.ckpt")) or (path / "metrics.jsonl").exists()


def _refuse_a_run(path: Path) -> None:
    if holds_run(path):
        raise ValueError(f"{path} holds a run already: continue it with resume={path}, or choose another name=")


def _make(path: Path) -> None:
    made = _made.setdefault(path, [])
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            made.append(folder)


def _reserve(path: Path) -> Path:
    """Makes a directory of this name, or of the first one with a number that is free."""
    try:
        _make(path.parent)
        made, count, free = _made.pop(path.parent), 1, path
        while True:
            try:
                free.mkdir()
                break
            except FileExistsError:
                count += 1
                free = path.with_name(f"{path.name}-{count}")
    except OSError as error:
        raise ValueError(f"the run did not start: {why_not_written(error, path.parent)}") from None
    _made[free] = [*made, free]
    return free


# ---- the lock ----


def lock(path: Path) -> None:
    """Makes this process the only writer of a run directory until it ends or calls `unlock`.

    The system drops the lock with the process, however that ends; the file stays and tells who had it. A file system
    without locks is said once, and the run goes on without.

    Raises: ValueError, naming the process and its machine, if another one has the lock; OSError.
    """
    if path in _locks:
        return
    file = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _holder(os.pread(file, 4096, 0))
        os.close(file)
        raise ValueError(f"{shown(path)} is in use by {who}: wait for it or stop it") from None
    except OSError as error:
        os.close(file)
        why = f"{error.strerror}: do not start the run a second time while it goes on"
        print(f"warning: {shown(path)} is not protected from a second process: {why}", flush=True)
        return
    _locks[path] = file
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}
    text = json.dumps({**about, "command": " ".join(sys.argv)[:100]}) + "\n"
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
    except OSError:  # a full disk: the lock holds, and only its holder stays unnamed
        pass


def unlock(path: Path) -> None:
    """Lets another process write to the directory, if this one had its lock."""
    if path in _locks:
        os.close(_locks.pop(path))


def children_keep_locks(keep: bool) -> None:
    """Whether processes forked from now on hold the locks too: those that train do, those that load data do not."""
    global _children_keep_locks
    _children_keep_locks = keep


def unlock_all() -> None:
    """Closes every lock in this process; a process it was forked from, or that forked from it, keeps its own."""
    for path in list(_locks):
        unlock(path)


def _in_forked_child() -> None:
    # A worker that outlives its killed run would keep it from going on.
    if not _children_keep_locks:
        unlock_all()


os.register_at_fork(after_in_child=_in_forked_child)


def _holder(text: bytes) -> str:
    try:
        found = parse_json(text, LOCK)
        return f"process {found['pid']} on {found['host']}, started {found['started']} ({found['command']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


# ---- finding ----


def point_latest(runs: Path, path: Path) -> None:
    """Replaces the relative link `runs/latest` in one step; a file system without links does without."""
    fresh = runs / f".latest.tmp-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(path, runs))
        os.replace(fresh, runs / "latest")
    except OSError:
        try:
            fresh.unlink(missing_ok=True)
        except OSError:
            pass


def save_config(path: Path, cfg: DictConfig) -> None:
    """Writes `config.yaml` (resolved, to be read) and `resume.yaml` (with interpolations, to continue from)."""
    for name, resolve in ((CONFIG, True), (SOURCE, False)):
        write_text(path / name, OmegaConf.to_yaml(cfg, resolve=resolve), durable=True)


def find(run: str, runs: Path) -> Path:
    """The directory of the run to resume: a path, or a path below runs/.

    Raises: FileNotFoundError; ValueError for a file, and for `latest` where another run was started after it.
    """
    for path in (Path(run), runs / run):
        if (path / SOURCE).is_file():
            if path.name == "latest" and path.is_symlink():
                _refuse_ambiguous(run, path)
            return path.resolve()
        if path.is_file():
            raise ValueError(f"resume={run}: give the run directory, not a file in it")
    raise FileNotFoundError(f"resume={run}: no run there{listing(runs)}")


def _refuse_ambiguous(run: str, link: Path) -> None:
    """`latest` is the run that saved last. One that was started later and has saved nothing may be what was meant."""
    pointed = _time(link)
    for source in _sources(link.parent):
        if _time(source) <= pointed:
            return
        if not any((source.parent / "checkpoints").glob("step=*.ckpt")) and not source.parent.samefile(link):
            newer = f"{shown(source.parent)} was started later and has no checkpoint yet"
            raise ValueError(f"resume={run} is {shown(link.resolve())}, but {newer}: write resume= with one of the two")


def listing(runs: Path) -> str:
    """`; runs: a, b, c` with the newest runs, or nothing."""
    found = [str(p.parent.relative_to(runs.parent)) for p in _sources(runs)[:5]]
    return f"; runs: {', '.join(found)}" if found else ""


def _sources(runs: Path) -> list[Path]:
    return sorted(runs.glob(f"*/*/*/{SOURCE}"), key=_time, reverse=True)


def _time(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # removed meanwhile
        return 0.0


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def sweep(path: Path) -> None:
    """Deletes temporary files that a killed process left in a run directory; to be called under its lock."""
    for folder in (path, path / "checkpoints", path / "samples"):
        for stale in folder.glob("*.tmp-*"):
            stale.unlink(missing_ok=True)
