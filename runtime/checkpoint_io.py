"""Files of checkpoints: written so that a kill or a full disk loses nothing, and verified when read."""

from __future__ import annotations

import copy
import errno
import hashlib
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from files import disk_is_full, free_bytes, replacing, why_not_written
from runtime.checkpoint_scan import check_archive, plain, shortened

FINITE = ("state_dict", "ema", "optimizer_states")  # parts of a checkpoint that must not hold NaN or infinity
NAME = re.compile(r"step=(\d+)\.ckpt")

# What this process has verified: path -> (size, time of change, inode), good or not. A file is read once for that.
_VERIFIED: dict[Path, tuple[tuple[int, int, int], bool]] = {}


class NotWritten(OSError):
    """A checkpoint that could not be written: why, and in `remedy` what to do about it."""

    def __init__(self, why: str, remedy: str = "put that right") -> None:
        super().__init__(why)
        self.remedy = remedy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file beside the target, verifies it, flushes it to the disk, then renames it.

    Where `background` is set, `save_checkpoint` returns as soon as the values are copied, and a thread writes the copy; `finish` waits
    for it and tells how it went. An interpreter that ends waits for the thread, too.

    Args:
        first_saved: called after the first checkpoint of this process.
    """

    def __init__(self, first_saved: Callable[[], None] | None = None) -> None:
        self.first_saved, self.saved = first_saved, 0
        self.background = False  # set by callbacks.checkpoint before each save
        self._writer: tuple[Path, Future[None]] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises: FloatingPointError for weights that are not finite; NotWritten, unless in the background. What was there before stays."""
        # Lightning's loops are not resumed: a session starts a fresh loop over the batches that are left.
        checkpoint.pop("loops", None)
        if (name := not_finite({part: checkpoint.get(part) for part in FINITE})) is not None:
            raise FloatingPointError(f"{name} is not finite")
        if not self.background:
            self._write(checkpoint, Path(path))
            return
        if self._writer is not None:
            raise RuntimeError(f"{self._writer[0]} is being written: call finish first")
        copied, done = snapshot(checkpoint, {}), Future()
        self._writer = Path(path), done
        threading.Thread(target=self._write_for, args=(done, copied, Path(path)), name="checkpoint").start()

    def finish(self) -> tuple[Path, NotWritten | None] | None:
        """Waits for what is written in the background: its path, and why it could not be written; None where nothing is.

        Raises: what no disk is to blame for.
        """
        if self._writer is None:
            return None
        (path, done), self._writer = self._writer, None
        error = done.exception()
        if error is not None and not isinstance(error, NotWritten):
            raise error
        return path, error

    def _write_for(self, done: Future[None], checkpoint: dict[str, Any], path: Path) -> None:
        try:
            self._write(checkpoint, path)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        needed = size(checkpoint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not even begun where it cannot fit: to fill the disk would trouble others.
            if needed > free_bytes(path.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with replacing(path, durable=True) as fresh:
                write(checkpoint, fresh)
                if not is_good(fresh):
                    raise OSError(errno.EIO, "what was written does not read back")
        except OSError as error:
            missing = max(needed - free_bytes(path.parent), 0) + needed // 10 + 10**6
            remedy = f"free {math.ceil(missing / 1e6)} MB" if disk_is_full(error) else "put that right"
            raise NotWritten(why_not_written(error, path.parent, needed), remedy) from error
        _VERIFIED[path] = signature(path), True
        self.saved += 1
        if self.saved == 1 and self.first_saved is not None:
            self.first_saved()

    def rotate(self, newest: Path, keep: int) -> None:
        """Deletes what is older than the `keep` newest good checkpoints up to `newest`, which was just written.

        Damaged files count for nothing, so they push no good one out; nor do files of later steps.
        """
        found = [path for path in checkpoints(newest.parent) if step_of(path) <= step_of(newest)]
        good = 0
        for place in range(len(found) - 1, -1, -1):
            if good == keep:
                for old in found[: place + 1]:
                    try:
                        old.unlink(missing_ok=True)
                    except OSError as error:
                        print(f"warning: {old} stays: {error.strerror}", flush=True)
                return
            good += verified(found[place])

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


class _Watched:
    """A file that remembers the error of a write: torch.save reports only that something did not fit."""

    def __init__(self, file: Any) -> None:
        self.file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(checkpoint: dict[str, Any], path: Path) -> None:
    """torch.save. Raises OSError with the disk's own reason."""
    with open(path, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save(checkpoint, watched)
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # torch finds a short file when it closes it
                raise error.__context__ from None
            raise (watched.error or OSError(errno.EIO, str(error).splitlines()[0])) from error


def tensors(node: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of all tensors in nested dicts and lists."""
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, (dict, list, tuple)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(value, f"{name}.{key}" if name else str(key))


def snapshot(node: Any, copies: dict[Any, torch.UntypedStorage]) -> Any:
    """Nested dicts and lists with copies of all tensors on the CPU; those that share memory go on sharing it, as in the file.

    Args: copies: the storages that are copied already, by device and address; an empty dict to begin with.
    """
    if isinstance(node, Tensor):
        storage = node.untyped_storage()
        key = (storage.device, storage.data_ptr())
        if key not in copies:
            copies[key] = storage.clone() if storage.device.type == "cpu" else storage.cpu()
        return torch.empty(0, dtype=node.dtype).set_(copies[key], node.storage_offset(), node.shape, node.stride())
    if isinstance(node, dict):
        copied = copy.copy(node)  # an OrderedDict stays one, with what torch notes on it
        copied.update({key: snapshot(value, copies) for key, value in node.items()})
        return copied
    if isinstance(node, (list, tuple)):
        return type(node)(snapshot(value, copies) for value in node)
    return node


def size(node: Any) -> int:
    """Bytes of the tensors in nested dicts and lists, shared memory counted once, as torch.save writes it."""
    storages = (tensor.untyped_storage() for _, tensor in tensors(node))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def not_finite(node: Any) -> str | None:
    """The name of the first tensor in nested dicts that holds a NaN or an infinity; None if there is none."""
    floats = [(name, t) for name, t in tensors(node) if t.is_floating_point() and t.numel()]
    kinds: dict[Any, list[Tensor]] = {}
    for _, tensor in floats:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    # One fused pass for each kind. The norm of finite numbers may overflow: only then they are looked at one by one.
    if all(torch.stack(torch._foreach_norm(group)).isfinite().all() for group in kinds.values()):
        return None
    return next((name for name, tensor in floats if not tensor.isfinite().all()), None)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name; -1 where there is none."""
    named = NAME.fullmatch(path.name)
    return int(named.group(1)) if named else -1


def checkpoints(folder: Path) -> list[Path]:
    """The `step=….ckpt` files of a folder, by step; folders and other names are none."""
    found = [path for path in folder.glob("step=*.ckpt") if step_of(path) >= 0 and path.is_file()]
    return sorted(found, key=step_of)


def signature(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written anew."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def verified(path: Path) -> bool:
    """`is_good`, remembered for as long as the file does not change."""
    try:
        now = signature(path)
    except OSError:
        return False
    then, good = _VERIFIED.get(path, (None, False))
    if then != now:
        good = is_good(path)
        _VERIFIED[path] = now, good
    return good


def is_good(path: Path) -> bool:
    """Whether the file is whole and torch can read its structure; no weight is copied to find out."""
    try:
        if not checksums_fit(path):  # first: torch would allocate whatever size the file names
            return False
        torch.load(path, map_location="meta", weights_only=True)
        return True
    except Exception:  # damage shows as one of many errors
        return False


def checksums_fit(path: Path) -> bool:
    """Whether the file is an archive of plain values and every record has its checksum: torch itself does not look."""
    try:
        check_archive(path)
        return True
    except ValueError:
        return False


def newest_good(folder: Path) -> Path | None:
    """The newest undamaged `step=….ckpt` of a folder; says which ones it passed over."""
    for path in reversed(checkpoints(folder)):
        if verified(path):
            return path
        print(f"warning: {path} is damaged, using the checkpoint before it", flush=True)
    return None


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU, in plain containers.

    Raises: ValueError, in one line, for a damaged file, one that is not a checkpoint, and for what is no plain value.
    """
    check_archive(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own text goes on to advise to trust the file
        why = shortened(" ".join(str(error).split(". ")[0].split())).replace("weights_only", "plain")
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__}: {why})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is a checkpoint of something else: it holds a {type(found).__name__}")
    return plain(found, path)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
