"""An append-only file of embeddings that survives kills and serves several processes at once."""
from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from pathlib import Path

import numpy as np
from filelock import FileLock

# One fixed-size entry a record, so that the index of a million captions is read in one go.
ENTRY = np.dtype([("key", "S16"), ("offset", "<u8"), ("length", "<u4"), ("tokens", "<u4"), ("crc", "<u4"),
                  ("check", "<u4")])
CHECK_START = 0x7E57_CAFE  # no block of zeros or of one repeated byte passes for an entry
LOCK_SEC = 120.0  # longer means that the holder hangs


def caption_key(caption: str) -> bytes:
    """16-byte hash of a caption, never ending in a zero byte (numpy strips those from fixed-width bytes)."""
    return hashlib.blake2b(caption.encode(), digest_size=15).digest() + b"\x01"


class EmbeddingStore:
    """Records of float16 numbers by key, in `embeds.bin`, indexed by `index.bin`; opened on first use.

    A record is written before its index entry, both under a lock, so whatever lies behind the last whole entry is the
    torn tail of a killed writer: it is never read, and the next writer cuts it off. A checksum in the entry finds
    what a power cut may lose in between; such a record counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data_path, self.index_path = folder / "embeds.bin", folder / "index.bin"
        self.lock = FileLock(str(folder / "lock"), timeout=LOCK_SEC)
        self.rows: dict[bytes, tuple[int, int, int, int]] = {}  # key -> offset, bytes, tokens, crc
        self.verified: set[bytes] = set()
        self.num_read = 0  # index entries read so far
        self.data_end = 0  # where the last known record ends
        self.view: memoryview | bytes = b""
        self.refresh()

    def refresh(self) -> None:
        """Take in the entries that other processes have appended."""
        try:
            with open(self.index_path, "rb") as file:
                file.seek(self.num_read * ENTRY.itemsize)
                blob = file.read()
        except FileNotFoundError:
            return
        entries = np.frombuffer(blob[: len(blob) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)
        for key, offset, length, tokens, crc, _ in entries[entries["check"] == checks(entries)].tolist():
            self.rows[key] = (offset, length, tokens, crc)
            self.data_end = max(self.data_end, offset + length)
        self.num_read += len(entries)

    def get(self, key: bytes) -> tuple[np.ndarray, int] | None:
        """Return (numbers float16, tokens before truncation), or None if absent or damaged."""
        row = self.rows.get(key)
        if row is None:
            return None
        offset, length, tokens, crc = row
        record = self._bytes(offset, length)
        if key not in self.verified:
            if len(record) != length or zlib.crc32(record) != crc:
                del self.rows[key]
                return None
            self.verified.add(key)
        return np.frombuffer(record, np.float16), tokens

    def _bytes(self, offset: int, length: int) -> memoryview | bytes:
        if offset + length > len(self.view):
            with open(self.data_path, "rb") as file:
                if os.fstat(file.fileno()).st_size < offset + length:
                    return b""
                self.view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self.view[offset : offset + length]

    def append(self, records: dict[bytes, tuple[np.ndarray, int]]) -> None:
        """Write the records that no process has written yet.

        Raises:
            OSError: the disk is full, the folder cannot be written, or another process hangs in its write.
        """
        with self.lock:
            self.refresh()
            new = {k: (v.tobytes(), tokens) for k, (v, tokens) in records.items() if k not in self.rows}
            if not new:
                return
            entries, offset = np.zeros(len(new), ENTRY), self.data_end
            for entry, (key, (data, tokens)) in zip(entries, new.items()):
                entry["key"], entry["offset"], entry["length"] = key, offset, len(data)
                entry["tokens"], entry["crc"] = tokens, zlib.crc32(data)
                offset += len(data)
            entries["check"] = checks(entries)
            write_at(self.data_path, self.data_end, b"".join(data for data, _ in new.values()))
            write_at(self.index_path, self.num_read * ENTRY.itemsize, entries.tobytes())
            self.refresh()


def checks(entries: np.ndarray) -> np.ndarray:
    """Checksum of each index entry: its words but the last, summed modulo 2^32."""
    words = entries.view("<u4").reshape(len(entries), ENTRY.itemsize // 4)[:, :-1]  # (N, 9); N may be 0
    return words.sum(1, dtype=np.uint32) + np.uint32(CHECK_START)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Write data at an offset and make it the file's end, cutting off the torn tail of a killed writer."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(file, offset)
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(file)
