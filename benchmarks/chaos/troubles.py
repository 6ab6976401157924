"""What happens to a training session, and what is done to its files between two sessions."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import signal
import stat
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import Process
from pathlib import Path
from typing import Any

import torch

from benchmarks.sessions import assert_same, processes_of

# Kind -> how often. A kill at a random moment of training is the common case; "writing" waits for a checkpoint's
# temporary file, "starting" does not wait for training to begin.
ALONE = {
    "sigkill": 24, "sigkill_writing": 12, "sigkill_starting": 4, "sigterm": 10, "ctrl_c": 8, "ctrl_c_twice": 3,
    "file_limit": 8, "no_space": 8, "small_disk": 8,
}  # fmt: skip
TOGETHER = {"sigkill": 3, "sigkill_rank_0": 6, "sigkill_rank_1": 6, "sigterm": 3, "sigterm_rank_0": 2, "sigterm_rank_1": 2,
            "ctrl_c_all": 3}  # fmt: skip
BETWEEN = {"nothing": 8, "damaged_checkpoint": 4, "torn_metrics": 4}
SIGNALS = {
    "sigkill": signal.SIGKILL, "sigkill_writing": signal.SIGKILL, "sigkill_starting": signal.SIGKILL,
    "sigterm": signal.SIGTERM, "ctrl_c": signal.SIGINT, "ctrl_c_twice": signal.SIGINT, "ctrl_c_all": signal.SIGINT,
    "sigkill_rank_0": signal.SIGKILL, "sigkill_rank_1": signal.SIGKILL,
    "sigterm_rank_0": signal.SIGTERM, "sigterm_rank_1": signal.SIGTERM,
}  # fmt: skip
FULL = ("file_limit", "no_space", "small_disk")
DAMAGES = ("truncated", "bit_flipped", "zeroed_block", "swapped_blocks", "empty", "junk")
BLOCK = 512


def with_signals(weights: dict[str, int], share: float) -> dict[str, float]:
    """The same kinds, with signals as often as `share` says, and as they were among themselves."""
    total = {kind: sum(w for k, w in weights.items() if (k in SIGNALS) == kind) for kind in (True, False)}
    return {k: w / total[k in SIGNALS] * (share if k in SIGNALS else 1 - share) for k, w in weights.items()}


def choose(weights: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def send(process: Process, kind: str) -> bool:
    """Sends a session the signal of a trouble; whether it was still there to receive it."""
    ranks = sorted(pid for pid in processes_of(process.pid) if pid != process.pid)
    rank = int(kind[-1]) if "rank" in kind else None
    if rank is not None and len(ranks) <= rank:
        return False
    targets = [ranks[rank]] if rank is not None else [process.pid, *ranks] if kind.endswith("_all") else [process.pid]
    hit = False
    for target in targets:
        try:
            os.kill(target, SIGNALS[kind])
            hit = True
        except ProcessLookupError:
            continue
    if kind == "ctrl_c_twice":
        time.sleep(0.03)
        try:
            os.kill(process.pid, signal.SIGINT)
        except ProcessLookupError:
            pass
    return hit


# ---- full disks: called in the session before training ----


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes (a quota that is used up); writes beyond fail with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fail_writes(seed: int, share: float) -> None:
    """From time to time for a few calls in a row, writing, flushing and renaming files fails with ENOSPC."""
    rng, state = random.Random(seed), {"failing": 0}
    quiet = (1, 2)  # what a session prints goes elsewhere

    def failing(call: Callable[..., Any], watched: Callable[..., bool]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if watched(args[0]):
                if state["failing"] == 0 and rng.random() < share:
                    state["failing"] = rng.randint(1, 4)
                if state["failing"]:
                    state["failing"] -= 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return wrapped

    def regular(file: int) -> bool:
        return isinstance(file, int) and file not in quiet and stat.S_ISREG(os.fstat(file).st_mode)

    for name in ("write", "pwrite", "fsync"):
        setattr(os, name, failing(getattr(os, name), regular))
    os.replace = failing(os.replace, lambda path: ".tmp-" in str(path))


class Ballast:
    """Fills a small disk but for some bytes while it is held."""

    def __init__(self, disk: Path, leave: int) -> None:
        self.path = disk / "ballast"
        free = os.statvfs(disk)
        size = max(0, free.f_bavail * free.f_frsize - leave)
        with open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size) if size else None

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


def before_session(kind: str, rng: random.Random, checkpoint_bytes: int) -> Callable[[], None] | None:
    """What a full disk does inside the session; None for troubles from outside."""
    if kind == "file_limit":
        return partial(limit_files, int(checkpoint_bytes * rng.uniform(0.05, 1.2)) + 8192)
    if kind == "no_space":
        return partial(fail_writes, rng.randrange(2**32), rng.choice((0.01, 0.05, 0.3)))
    return None


# ---- damage between two sessions ----


def damage(data: bytes, kind: str, rng: random.Random) -> bytes:
    """A file's bytes after an accident of one kind; never the same bytes."""
    if not data:  # an earlier accident left nothing
        return rng.randbytes(rng.randint(1, BLOCK))
    blocks = max(1, len(data) // BLOCK)
    raw = bytearray(data)
    if kind == "truncated":
        return data[: rng.randrange(len(data))]
    if kind == "bit_flipped":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "zeroed_block":
        start = rng.choice([i * BLOCK for i in range(blocks) if any(raw[i * BLOCK : (i + 1) * BLOCK])])
        raw[start : start + BLOCK] = bytes(len(raw[start : start + BLOCK]))
    elif kind == "swapped_blocks":
        for _ in range(100):
            i, j = (BLOCK * rng.randrange(blocks) for _ in range(2))
            a, b = raw[i : i + BLOCK], raw[j : j + BLOCK]
            if a != b and len(a) == len(b):
                raw[i : i + BLOCK], raw[j : j + BLOCK] = b, a
                break
    elif kind == "empty":
        return b""
    else:
        return rng.randbytes(rng.randint(1, len(data)))
    return bytes(raw)


def same(bad: bytes, good: bytes) -> bool:
    """Whether two checkpoints hold the same."""
    try:
        assert_same(*(torch.load(io.BytesIO(raw), weights_only=True) for raw in (bad, good)))
        return True
    except Exception:  # other contents, or bytes that cannot be read
        return False


def damage_newest(checkpoints: Path, rng: random.Random) -> str | None:
    """Damages the newest checkpoint where there is another; its name, or None."""
    found = sorted(checkpoints.glob("step=*.ckpt"))
    if len(found) < 2:
        return None
    good = bad = found[-1].read_bytes()
    while same(bad, good):  # bytes between the records of an archive mean nothing
        bad = damage(good, rng.choice(DAMAGES), rng)
    found[-1].write_bytes(bad)
    return found[-1].name


def tear_metrics(run_dir: Path, rng: random.Random) -> bool:
    """Tears what metrics.jsonl got after the newest checkpoint, as a power cut may; whether there was anything."""
    path = run_dir / "metrics.jsonl"
    found = sorted((run_dir / "checkpoints").glob("step=*.ckpt"))
    if not path.exists() or not found:
        return False
    step = int(found[-1].stem.partition("=")[2])  # lines up to it were flushed before it was written
    raw = path.read_bytes()
    kept = 0
    for line in raw.splitlines(keepends=True):
        if b'"step": ' not in line or int(line.partition(b'"step": ')[2].split(b",")[0].rstrip(b"}\n")) > step:
            break
        kept += len(line)
    tail = raw[kept:]
    torn = tail[: rng.randrange(len(tail) + 1)]
    torn += rng.choice((b"", b"", bytes(rng.randint(1, 200)), rng.randbytes(rng.randint(1, 50)), b"7\n", b'{"a": 1}\n'))
    path.write_bytes(raw[:kept] + torn)
    return True
