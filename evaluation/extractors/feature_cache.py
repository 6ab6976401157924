"""Keeps computed features in memory and on disk and finds them again by the content of the images."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from files import open_regular, replacing

MEMORY_BYTES = 2 << 30
DISK_BYTES = 4 << 30


class FeatureCache:
    """Tensors under content digests: memory first, then one small file each.

    Keys say everything a value depends on, so a value never goes stale; what was used longest ago goes first when
    there is too much. Files are written through a temporary one, so that several processes can share a folder, and a
    damaged file is a miss.

    Args:
        folder: where files go; None keeps everything in memory.
        memory_bytes, disk_bytes: limits of what is kept.
    """

    def __init__(
        self, folder: str | Path | None = None, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        self.folder = Path(folder).expanduser() if folder else None
        self.memory_bytes, self.disk_bytes = memory_bytes, disk_bytes
        self.hits = self.misses = 0
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._held = 0
        self._on_disk: int | None = None
        self._lock = threading.Lock()

    def get(self, key: str) -> Tensor | None:
        """The tensor of a key, or None."""
        with self._lock:
            found = self._memory.get(key)
            if found is not None:
                self._memory.move_to_end(key)
        if found is None and self.folder is not None:
            found = self._read(self._path(key))
            if found is not None:
                self._remember(key, found)
        self.hits += found is not None
        self.misses += found is None
        return found

    def put(self, key: str, value: Tensor) -> None:
        """Keeps a tensor; a folder that cannot be written to is left alone after one warning."""
        self._remember(key, value)
        if self.folder is None:
            return
        try:
            self._write(self._path(key), value)
        except OSError as error:
            print(f"warning: features are not kept in {self.folder}: {error}", flush=True)
            self.folder = None

    def clear(self) -> None:
        """Forgets what is in memory."""
        with self._lock:
            self._memory.clear()
            self._held = 0

    def _remember(self, key: str, value: Tensor) -> None:
        with self._lock:
            if key in self._memory:
                return
            self._memory[key] = value
            self._held += value.nbytes
            while self._held > self.memory_bytes and len(self._memory) > 1:
                self._held -= self._memory.popitem(last=False)[1].nbytes

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.pt"

    @staticmethod
    def _read(path: Path) -> Tensor | None:
        try:
            with open_regular(path, MEMORY_BYTES) as file:
                value = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(value, Tensor):
                raise ValueError(f"a {type(value).__name__}, no tensor")
            os.utime(path)  # what is used stays
            return value
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file shows as one of many errors
            print(f"warning: {path} is damaged ({type(error).__name__}): its features are computed anew", flush=True)
            return None

    def _write(self, path: Path, value: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh:
            torch.save(value.clone(), fresh)  # a view would be saved with all of its storage
            size = fresh.stat().st_size
        if self._on_disk is None:
            self._on_disk = sum(p.stat().st_size for p in self.folder.glob("*/*.pt"))
        else:
            self._on_disk += size
        if self._on_disk > self.disk_bytes:
            self._shrink()

    def _shrink(self) -> None:
        """Deletes what was used longest ago until nine tenths of the limit are left."""
        files = []
        for path in self.folder.glob("*/*.pt"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            files.append((stat.st_mtime_ns, stat.st_size, path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= 0.9 * self.disk_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        self._on_disk = left


_SHARED: dict[str | None, FeatureCache] = {}


def shared(folder: str | Path | None) -> FeatureCache:
    """The one cache of a folder in this process (None: in memory only), so that all metrics share their features."""
    key = str(Path(folder).expanduser().absolute()) if folder else None
    return _SHARED.setdefault(key, FeatureCache(key))
