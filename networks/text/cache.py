"""Compute each caption's embedding once, whatever the number of epochs, runs and processes."""
from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from files import write_json
from networks.text.base import TextEmbedding, TextEncoder, checked
from networks.text.store import EmbeddingStore, caption_key

PRECOMPUTE_CHUNK = 512
REPORT_SEC = 5.0
MEMORY_GB = 2.0  # at most, where the disk is not to be had


class CachedTextEncoder:
    """A text encoder that keeps its results: the interface of the encoder it wraps, values rounded to float16.

    On disk under `cache_dir`/<id>-<hash of id, revision, max_length>/, memory-mapped, shared by all processes and runs;
    with `cache_dir=None` in memory only. Hits and misses give the same numbers. If every caption is cached, the
    encoder's weights are never loaded. A cache that is full stays as it is, and other captions are encoded each time.

    Args:
        encoder: the encoder to ask for what is not cached.
        cache_dir: directory for all caches, made on first use.
        dim: the encoder's width, stated so that a config can hand it on; checked, not used.
        cache_gb: gigabytes (10^9 bytes) that the cache of this encoder may take on the disk; in memory at most MEMORY_GB of them.
    Raises:
        ValueError: `dim` is not the encoder's, or `cache_gb` is below 0.
    """

    def __init__(self, encoder: TextEncoder, cache_dir: str | Path | None = None, dim: int | None = None, cache_gb: float = 20.0) -> None:
        if not cache_gb >= 0:
            raise ValueError(f"text_encoder.cache_gb must be at least 0, got {cache_gb}")
        self.encoder, self.cache_dir, self._dim, self.cache_gb = encoder, cache_dir, dim, cache_gb
        self._memory_bytes = 0
        self.is_full = False
        self._store: EmbeddingStore | None = None
        self._memory: dict[bytes, tuple[np.ndarray, int]] = {}
        self._opened = self._writable = False

    id = property(lambda self: self.encoder.id)
    revision = property(lambda self: self.encoder.revision)
    max_length = property(lambda self: self.encoder.max_length)
    pooled_dim = property(lambda self: self.encoder.pooled_dim)
    truncated = property(lambda self: self.encoder.truncated)
    device = property(lambda self: self.encoder.device)

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return self.encoder.dim if self._dim is None else self._dim

    def to(self, device: torch.device | str) -> CachedTextEncoder:
        """Encode and deliver on this device from now on, and return self."""
        self.encoder.to(device)
        return self

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Count the tokens of each caption before truncation."""
        return self.encoder.token_counts(captions)

    def check_length(self, prompts: Sequence[str], *, strict: bool = True) -> int:
        """As `TextEncoder.check_length`."""
        return self.encoder.check_length(prompts, strict=strict)

    def encode(self, captions: Sequence[str]) -> TextEmbedding:
        """As `TextEncoder.encode`: what is cached from the cache, the rest in one batched call."""
        captions = checked(captions)
        keys = [caption_key(c) for c in captions]
        found = self._fetch(dict(zip(keys, captions)))
        self.encoder.note_lengths(captions, [found[k][1] for k in keys])
        return self._assemble([found[k][0] for k in keys])

    def precompute(self, captions: Sequence[str], progress: bool = True) -> int:
        """Fill the cache. Under DDP hand each rank its own part.

        Args:
            captions: any number, repeats allowed.
            progress: report done, speed and remaining time on stderr every few seconds.
        Returns: how many were computed; fewer than were missing where the cache is full before.
        """
        captions = sorted(set(checked(captions)), key=lambda c: (len(c), c))  # batches of like length waste least
        missing = [c for c in captions if self._read(caption_key(c)) is None]
        start = reported = time.monotonic()
        for first in range(0, len(missing), PRECOMPUTE_CHUNK):
            self._fetch({caption_key(c): c for c in missing[first : first + PRECOMPUTE_CHUNK]})
            done, now = min(first + PRECOMPUTE_CHUNK, len(missing)), time.monotonic()
            if self.is_full:
                return done
            if progress and (now - reported > REPORT_SEC or done == len(missing)):
                reported, rate = now, done / max(now - start, 1e-9)
                left_sec = round((len(missing) - done) / rate)
                print(f"text cache {self.id}: {done:,}/{len(missing):,} captions, {rate:,.0f}/s, "
                      f"{left_sec // 3600}:{left_sec // 60 % 60:02}:{left_sec % 60:02} left", file=sys.stderr)
        return len(missing)

    def _fetch(self, wanted: dict[bytes, str]) -> dict[bytes, tuple[np.ndarray, int]]:
        """Return record and token count of every wanted caption, computing and storing those that are missing."""
        found = {key: self._read(key) for key in wanted}
        missing = [key for key, record in found.items() if record is None]
        if missing:
            captions = [wanted[key] for key in missing]
            records = self._to_records(self.encoder.encode(captions), captions)
            computed = dict(zip(missing, zip(records, self.encoder.token_counts(captions))))
            self._write(computed)
            found.update(computed)
        return found

    def _to_records(self, embedding: TextEmbedding, captions: list[str]) -> list[np.ndarray]:
        """One float16 vector a caption: its pooled vector, then its real tokens."""
        lengths = embedding.mask.sum(1).tolist()
        embeds, pooled = embedding.embeds.half().cpu(), embedding.pooled.half().cpu()
        records = [torch.cat([p, e[:n].flatten()]).numpy() for e, p, n in zip(embeds, pooled, lengths)]
        for record, caption in zip(records, captions):
            if not np.isfinite(record).all():
                raise ValueError(f"text encoder {self.id} gives values outside float16 for {caption[:60]!r}: "
                                 f"use another layer, or the encoder without cache")
        return records

    def _assemble(self, records: list[np.ndarray]) -> TextEmbedding:
        dim, pooled_dim = self.encoder.dim, self.encoder.pooled_dim
        lengths = torch.tensor([(len(r) - pooled_dim) // dim for r in records], dtype=torch.long)
        longest = max(lengths.tolist(), default=1)
        embeds = np.zeros((len(records), longest, dim), np.float16)
        pooled = np.zeros((len(records), pooled_dim), np.float16)
        for row, (record, length) in enumerate(zip(records, lengths.tolist())):
            pooled[row], embeds[row, :length] = record[:pooled_dim], record[pooled_dim:].reshape(length, dim)
        mask = torch.arange(longest)[None] < lengths[:, None]  # (B, L)
        embedding = TextEmbedding(torch.from_numpy(embeds), mask, torch.from_numpy(pooled)).to(self.device)
        return TextEmbedding(embedding.embeds.float(), embedding.mask, embedding.pooled.float())

    def _read(self, key: bytes) -> tuple[np.ndarray, int] | None:
        if not self._opened:
            self._open()
        record = self._memory.get(key)
        return record if record is not None or self._store is None else self._store.get(key)

    def _write(self, records: dict[bytes, tuple[np.ndarray, int]]) -> None:
        if self.is_full:
            return
        num_bytes = sum(record.nbytes for record, _ in records.values())
        if self._store is not None and self._writable:
            if self._store.data_end + num_bytes > self.cache_gb * 1e9:
                return self._note_full(len(self._store.rows), self.cache_gb)
            try:
                return self._store.append(records)
            except OSError as error:
                self._without_disk(error)
        if self._memory_bytes + num_bytes > min(self.cache_gb, MEMORY_GB) * 1e9:
            return self._note_full(len(self._memory), min(self.cache_gb, MEMORY_GB))
        self._memory.update(records)
        self._memory_bytes += num_bytes

    def _note_full(self, num_captions: int, limit_gb: float) -> None:
        self.is_full = True
        where = "in memory" if self._store is None or not self._writable else f"in {self.cache_dir}"
        print(f"text cache {where}: full with {num_captions:,} captions ({limit_gb:g} GB, text_encoder.cache_gb); others are encoded each time",
              file=sys.stderr)

    def _open(self) -> None:
        """Check the encoder's width, then open the store for exactly this encoder."""
        if self._dim not in (None, self.encoder.dim):
            raise ValueError(f"text_encoder.dim is {self._dim}, but {self.id} has {self.encoder.dim}: set it to that")
        self._opened = True
        if self.cache_dir is None:
            return
        identity = {"id": self.id, "revision": self.revision, "max_length": self.max_length,
                    "dim": self.encoder.dim, "pooled_dim": self.pooled_dim}
        digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=6).hexdigest()
        folder = Path(self.cache_dir) / f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.id).strip('-')}-{digest}"
        try:
            self._store, self._writable = EmbeddingStore(folder), True
            if not (folder / "encoder.json").exists():  # for people: which cache is this?
                write_json(folder / "encoder.json", identity)
        except OSError as error:
            self._without_disk(error)

    def _without_disk(self, error: OSError) -> None:
        """From now on write to memory; what the disk holds is still read."""
        self._writable = False
        warnings.warn(f"text cache in {self.cache_dir} cannot be written ({error}): keeping embeddings in memory only")

    def __getstate__(self) -> dict[str, object]:
        # Copies and pickles (spawned ranks) open the files again.
        return {**self.__dict__, "_store": None, "_memory": {}, "_memory_bytes": 0, "_opened": False, "is_full": False}
