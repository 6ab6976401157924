"""Files of checkpoints: written so that a kill loses nothing, and verified when read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from runtime.checkpoint_scan import check_archive, plain, shortened


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file beside the target, flushes it to the disk, verifies it, then renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        # Lightning's loops are not resumed: a session starts a fresh loop over the batches that are left.
        checkpoint.pop("loops", None)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            with open(fresh, "wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # torch's way to say that the disk is full
                    raise OSError(str(error).splitlines()[0]) from error
                file.flush()
                os.fsync(file.fileno())
            if not is_good(fresh):
                raise OSError(f"what was written to {fresh} does not read back")
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        return read(Path(path))


def is_good(path: Path) -> bool:
    """Whether the file is whole and torch can read its structure; no weight is copied to find out."""
    try:
        if not checksums_fit(path):  # first: torch would build whatever size a stranger's file names
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
    """The newest undamaged `step=*.ckpt` of a folder; says which ones it passed over."""
    for path in sorted(folder.glob("step=*.ckpt"), reverse=True):
        if is_good(path):
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
