"""Which one-line faults do the tests notice? `python -m benchmarks.mutate [room=NAME] [file=PREFIX] [jobs=1] [out=FILE.json]`

`benchmarks/faults/ROOM.yaml` lists faults. Each is put into a copy of the checkout, never into the checkout itself, and
the tests named beside it run there. A process that has imported torch and pytest, and nothing of the repository, forks
once for each fault, so that a fault costs the time of its tests only. Exit code 1: a room notices less than 95 %.
"""

from __future__ import annotations

import compileall
import gc
import importlib
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[1]
FAULTS = "benchmarks/faults"
WANTED = 0.95
LIMIT_SEC = 300.0
# What most tests import and nothing here changes: imported once. A module that is not installed is left out.
PRELOAD = (
    "torch", "torch._dynamo", "torch.optim.optimizer", "torchvision.transforms.v2", "numpy", "PIL.Image", "pytest",
    "pytorch_lightning", "hydra", "omegaconf", "safetensors.torch", "filelock",
)  # fmt: skip
KEYS = ("file", "was", "becomes", "why", "tests")


@dataclass(frozen=True)
class Fault:
    """One line of the list.

    Args:
        was, becomes: the text that stands in `file` exactly once, and the faulty text in its place.
        tests: the files of tests that should notice.
        hangs: a run that never ends counts as noticed; elsewhere it is an error of the list.
    """

    room: str
    file: str
    was: str
    becomes: str
    why: str
    tests: tuple[str, ...]
    hangs: bool = False


@dataclass(frozen=True)
class Outcome:
    """What the tests said: `noticed`, `unnoticed` or `error`, and their last lines."""

    result: str
    sec: float
    said: str


def load(root: Path, room: str | None = None) -> list[Fault]:
    """The faults of one room or of all. Raises ValueError or FileNotFoundError, in one line, for a list that does not fit the sources."""
    folder = root / FAULTS
    paths = sorted(folder.glob("*.yaml"))
    if room is not None:
        paths = [p for p in paths if p.stem == room]
    if not paths:
        known = ", ".join(p.stem for p in sorted(folder.glob("*.yaml"))) or "none"
        raise FileNotFoundError(f"room={room}: no such list in {FAULTS}/ (there are: {known})")
    faults = [fault for path in paths for fault in _read(root, path)]
    seen: set[tuple[str, str, str]] = set()
    for fault in faults:
        key = (fault.file, fault.was, fault.becomes)
        if key in seen:
            raise ValueError(f"{FAULTS}/{fault.room}.yaml: the fault {fault.why!r} of {fault.file} stands there twice")
        seen.add(key)
    return faults


def _read(root: Path, path: Path) -> Iterator[Fault]:
    for number, entry in enumerate(yaml.safe_load(path.read_text()) or [], 1):
        where = f"{FAULTS}/{path.name}, entry {number}"
        if not isinstance(entry, dict) or not set(KEYS) <= set(entry) <= {*KEYS, "hangs"}:
            raise ValueError(f"{where}: needs the keys {', '.join(KEYS)} (and may have hangs)")
        fault = Fault(room=path.stem, **{**entry, "tests": tuple(entry["tests"])})
        for name in (fault.file, *fault.tests):
            if not (root / name).is_file():
                raise FileNotFoundError(f"{where} ({fault.why}): there is no file {name}")
        if not fault.tests:
            raise ValueError(f"{where} ({fault.why}): names no tests")
        mutated(root, fault)
        yield fault


def mutated(root: Path, fault: Fault) -> str:
    """The faulty file. Raises ValueError unless `was` occurs exactly once, `becomes` differs and the file still compiles."""
    where = f"{FAULTS}/{fault.room}.yaml ({fault.why}): {fault.file}"
    source = (root / fault.file).read_text(encoding="utf-8")
    if (count := source.count(fault.was)) != 1:
        raise ValueError(f"{where} holds {fault.was!r} {count} times: `was` must occur exactly once")
    faulty = source.replace(fault.was, fault.becomes)
    if faulty == source:
        raise ValueError(f"{where}: `was` and `becomes` are the same")
    if fault.file.endswith(".py"):
        try:
            compile(faulty, fault.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise ValueError(f"{where} does not compile with {fault.becomes!r}: {error.msg}") from None
    return faulty


def copy_checkout(root: Path, to: Path) -> None:
    """The files that git knows or would know, as they lie in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    # By the source's hash: the usual check, by second and size, would hide a fault that changes neither.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(to, quiet=2, invalidation_mode=mode)


# ---- running tests in a fork ----


def preload(names: Sequence[str]) -> None:
    """Imports what the forks share; no test has run and no thread works when they start."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    gc.freeze()  # pytest collects garbage five times at its end: half a second each time over all that is loaded here


def start(copy: Path, root: Path, tests: Sequence[str], fault: Fault | None) -> int:
    """Forks a process that runs tests in the copy, with the fault in it; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        output = os.open(copy.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, target)
        if fault is not None:
            (copy / fault.file).write_text(mutated(copy, fault), encoding="utf-8")
        code = _pytest(copy, root, tests)
    except BaseException as error:  # a fork must not go on as its parent would
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pytest(copy: Path, root: Path, tests: Sequence[str]) -> int:
    import pytest

    for name, module in list(sys.modules.items()):
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if place and name != "__main__" and Path(place).is_relative_to(root) and "site-packages" not in place:
            del sys.modules[name]
    sys.path[:] = [str(copy), *(p for p in sys.path if p and Path(p).resolve() != root)]
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # Other packages' plugins cost half a second a fault; pytest-timeout would pass a fault that hangs for a noticed one.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.chdir(copy)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "--assert=plain"]
    where = [f"--rootdir={copy}", f"--basetemp={copy.with_suffix('.tmp')}"]
    return int(pytest.main([*options, *where, "-m", "not slow and not gpu", *tests]))


def stop(pid: int) -> None:
    """Ends what a fork may have left in its process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def outcome(copy: Path, fault: Fault | None, status: int | None, sec: float) -> Outcome:
    """From the status of os.waitpid (None: stopped at the time limit) to what it means."""
    output = copy.with_suffix(".out")
    lines = [x for x in (output.read_text(errors="replace") if output.exists() else "").splitlines() if x.strip()]
    failed = [x for x in lines if x.startswith(("FAILED", "ERROR"))]
    said = " | ".join((failed or lines)[-2:])[:400]
    if status is None:
        hangs = fault is not None and fault.hangs
        return Outcome("noticed" if hangs else "error", sec, f"no end after {sec:.0f} seconds; {said}")
    code = os.waitstatus_to_exitcode(status)
    # pytest: 0 all passed, 1 some failed, 2 a test file could not be imported. All else says nothing about the fault.
    return Outcome({0: "unnoticed", 1: "noticed", 2: "noticed"}.get(code, "error"), sec, said or f"exit code {code}")


def campaign(
    root: Path, work: Path, tasks: Sequence[tuple[Fault | None, Sequence[str]]], jobs: int, limit_sec: float
) -> Iterator[tuple[Fault | None, Outcome]]:
    """Runs every task, `jobs` at a time, each job in its own copy; yields outcomes as they come."""
    free, running, waiting = [], {}, list(reversed(tasks))
    for i in range(min(jobs, len(tasks))):
        free.append(work / f"copy{i}")
        if not free[-1].exists():
            copy_checkout(root, free[-1])
    try:
        while waiting or running:
            while waiting and free:
                fault, tests = waiting.pop()
                copy = free.pop()
                sound = (copy / fault.file).read_bytes() if fault is not None else b""
                running[start(copy, root, tests, fault)] = (copy, fault, sound, time.monotonic())
            for pid, (copy, fault, sound, begun) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                sec = time.monotonic() - begun
                if not done and sec < limit_sec:
                    continue
                stop(pid)
                if not done:
                    os.waitpid(pid, 0)
                del running[pid]
                result = outcome(copy, fault, status if done else None, sec)
                if fault is not None:
                    (copy / fault.file).write_bytes(sound)
                free.append(copy)
                yield fault, result
            time.sleep(0.02)
    finally:
        for pid in running:
            stop(pid)
            os.waitpid(pid, 0)


# ---- the command ----


def settings(argv: Sequence[str]) -> dict[str, Any]:
    """The words of the command line. Raises ValueError for others."""
    found: dict[str, Any] = {"room": None, "file": "", "jobs": 1, "out": None, "limit_sec": LIMIT_SEC}
    for word in argv:
        name, given, value = word.partition("=")
        if not given or name not in found or not value:
            raise ValueError(f"{word}: give room=NAME, file=PREFIX, jobs=N, limit_sec=N or out=FILE.json")
        found[name] = value
    try:
        found["jobs"], found["limit_sec"] = int(found["jobs"]), float(found["limit_sec"])
    except ValueError:
        raise ValueError(f"jobs={found['jobs']} limit_sec={found['limit_sec']}: give numbers") from None
    if found["jobs"] < 1 or not found["limit_sec"] > 0:
        raise ValueError(f"jobs={found['jobs']} limit_sec={found['limit_sec']:g}: give numbers above 0")
    return found


def report(faults: Sequence[Fault], outcomes: dict[Fault, Outcome]) -> bool:
    """Prints a line for each room and one for each fault that was not noticed; whether every room notices enough."""
    enough = True
    for room in sorted({f.room for f in faults}):
        own = [f for f in faults if f.room == room]
        noticed = sum(outcomes[f].result == "noticed" for f in own)
        enough = enough and noticed >= WANTED * len(own)
        print(f"{room}: {noticed} / {len(own)} noticed ({100 * noticed / len(own):.1f} %)")
        for fault in own:
            if outcomes[fault].result != "noticed":
                line = f"  {outcomes[fault].result}: {fault.file}: {fault.why}"
                print(line + (f" [{outcomes[fault].said}]" if outcomes[fault].result == "error" else ""))
    return enough


def main(argv: Sequence[str], root: Path = REPO, modules: Sequence[str] = PRELOAD) -> int:
    """Exit code: 0 enough noticed, 1 too little, 2 the list or the command line is wrong, or the tests fail unmutated."""
    try:
        given = settings(argv)
        faults = [f for f in load(root, given["room"]) if f.file.startswith(given["file"])]
        if not faults:
            raise ValueError(f"file={given['file']}: no fault of such a file is listed")
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload(modules)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that forks and copies are cleared away
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        work, limit = Path(folder).resolve(), given["limit_sec"]
        sound = [(None, [name]) for name in dict.fromkeys(name for f in faults for name in f.tests)]
        for _, result in campaign(root, work, sound, given["jobs"], limit):
            if result.result != "unnoticed":
                print(f"error: the tests fail without any fault: {result.said}", file=sys.stderr)
                return 2
        outcomes: dict[Fault, Outcome] = {}
        for fault, result in campaign(root, work, [(f, f.tests) for f in faults], given["jobs"], limit):
            outcomes[fault] = result
            print(f"{len(outcomes)}/{len(faults)} {result.result} {result.sec:.1f} s {fault.file}: {fault.why}", file=sys.stderr)
    gc.unfreeze()
    if given["out"]:
        rows = [{**asdict(f), **asdict(outcomes[f])} for f in faults]
        Path(given["out"]).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if report(faults, outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
