"""Files of checkpoints: written so that a kill loses nothing, and verified when read."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


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
        torch.load(path, map_location="meta", weights_only=True)
        return checksums_fit(path)
    except Exception:  # damage shows as one of many errors
        return False


def checksums_fit(path: Path) -> bool:
    """Whether every record of the archive has its checksum: torch.load itself does not look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damage shows as one of many errors
        return False


def newest_good(folder: Path) -> Path | None:
    """The newest undamaged `step=*.ckpt` of a folder; says which ones it passed over."""
    for path in sorted(folder.glob("step=*.ckpt"), reverse=True):
        if is_good(path):
            return path
        print(f"warning: {path} is damaged, using the checkpoint before it", flush=True)
    return None


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU. Raises ValueError for a damaged file or one that is not a checkpoint."""
    if not checksums_fit(path):
        raise ValueError(f"{path} is damaged or not a checkpoint (its checksums do not fit)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded as plain tensors: {str(error).splitlines()[0]}") from None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
