"""Where every sample of many tar shards lies: each shard is read once, and its table is kept for the next run.

A table takes 25 bytes a sample and is read row by row, so that a billion samples cost disk and no memory. A shard is known by its
size and time; one that is new or has changed is read again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.caption_tables import MAX_TEXT
from datamodules.progress import Progress
from datamodules.shard_files import RemoteShards, ShardFolder, Stat
from datamodules.tars import TEXTS, Damaged, captions_in, mark, tar_samples
from files import Unreachable, parse_json, printable, replacing
from rng.hashing import stable_hash

VERSION = 1  # raise when the table of an unchanged shard can change
ROW = np.dtype([("image_at", "<u8"), ("image_bytes", "<u4"), ("text_at", "<u8"), ("text_bytes", "<u4"), ("kind", "<u1")])  # kind: of TEXTS
LACKS = ("without image", "without caption")
_MOST_PROCESSES = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that can be used: its name below the root, its samples, its mark, and how many samples lack a part (of LACKS)."""

    name: str
    num_rows: int
    mark: str
    lacks: tuple[int, int]


@dataclass(frozen=True)
class TarIndex:
    """Shards, sorted by name; a line for each damaged one; where they lie; and the folder of the tables."""

    files: ShardFolder | RemoteShards
    folder: Path
    shards: list[Shard]
    damaged: list[str]

    def table(self, shard: Shard) -> Path:
        """The file of a shard's table: `num_rows` times ROW."""
        return self.folder / _table(shard.name)

    def summary(self) -> str:
        """One line, as `40 shards, 199,998 captioned images; 2 without caption; 1 damaged shards`."""
        parts = [f"{len(self.shards):,} shards, {sum(s.num_rows for s in self.shards):,} captioned images"]
        parts += [f"{count:,} {what}" for what, count in zip(LACKS, self._lacks()) if count]
        return "; ".join([*parts, f"{len(self.damaged):,} damaged shards"] if self.damaged else parts)

    def _lacks(self) -> tuple[int, int]:
        return sum(s.lacks[0] for s in self.shards), sum(s.lacks[1] for s in self.shards)

    def require(self, max_bad_fraction: float) -> None:
        """Raise ValueError where too much is unusable to be an accident."""
        limit = f"more than data.max_bad_fraction={max_bad_fraction:g}"
        num_shards, good = len(self.shards) + len(self.damaged), sum(s.num_rows for s in self.shards)
        if len(self.damaged) > max_bad_fraction * num_shards:
            raise ValueError(f"{len(self.damaged):,} of {num_shards:,} shards are damaged, {limit}; mend or remove them, or raise the limit; the first: {self.damaged[0]}")
        bad = sum(self._lacks())
        if not good or bad > max_bad_fraction * (good + bad):
            missing = ", ".join(f"{count:,} {what}" for what, count in zip(LACKS, self._lacks()))
            raise ValueError(f"{self.files.where}: {good:,} of {good + bad:,} samples have an image and a caption ({missing}), and {limit} lack one")

    def digest(self) -> str:
        """Hex digest of the shards' names, sizes, and first and last parts; a copy of the folder has the same."""
        return hashlib.blake2b(repr([(s.name, s.mark, s.num_rows) for s in self.shards]).encode(), digest_size=16).hexdigest()


def build_tar_index(files: ShardFolder | RemoteShards, folder: Path, stats: dict[str, Stat]) -> TarIndex:
    """Reads the shards that are new or have changed, several at once where there are many.

    Args:
        files: the shards.
        folder: where the tables are kept.
        stats: what `files.listing()` gave.
    Raises: OSError where a shard cannot be fetched.
    """
    names = list(stats)
    folder.mkdir(parents=True, exist_ok=True)
    known = {name: entry for name, entry in _read_journal(folder / "shards.jsonl").items() if stats.get(name) == tuple(entry[:2])}
    fresh = [name for name in names if name not in known]
    damaged = []
    if fresh:
        with open(folder / "shards.jsonl", "a", encoding="utf-8") as journal:
            for name, entry in _read_all(files, folder, fresh):
                if isinstance(entry, str):  # read again the next time: a disk may be mended and the file stay as it is
                    damaged.append(printable(f"{name}: {entry}"))
                    continue
                known[name] = [*stats[name], *entry]
                journal.write(json.dumps([VERSION, name, *known[name]]) + "\n")
                journal.flush()
    shards = [Shard(name, rows, code, (no_image, no_text)) for name in names if name in known for _, _, code, rows, no_image, no_text in [known[name]]]
    return TarIndex(files, folder, shards, damaged)


Entry = tuple[str, int, int, int]  # mark, samples that can be used, those without image, those without caption


def _read_all(files: ShardFolder | RemoteShards, folder: Path, names: list[str]) -> Iterator[tuple[str, Entry | str]]:
    progress = Progress(f"read {{}} of {len(names):,} new shards", len(names))
    processes = min(_MOST_PROCESSES, os.cpu_count() or 1) if len(names) >= files.many else 1
    tables = [folder / _table(name) for name in names]
    if processes == 1:
        for done, (name, table) in enumerate(zip(names, tables), start=1):
            yield name, _read_one(files, name, table)
            progress.tell(done)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, (name, entry) in enumerate(zip(names, pool.map(_read_one, itertools.repeat(files), names, tables)), start=1):
            yield name, entry
            progress.tell(done)


def _read_one(files: ShardFolder | RemoteShards, name: str, table: Path) -> Entry | str:
    """Writes the table of a shard; or says why the shard cannot be used. Raises: Unreachable."""
    rows, lacks = [], [0, 0]
    try:
        with os.fdopen(files.open(name), "rb") as file:
            for sample in tar_samples(file):
                if sample.image is None or not sample.image[1]:
                    lacks[0] += 1
                    continue
                if sample.text is not None:
                    file.seek(sample.text[0])
                if sample.text is None or sample.text[1] > MAX_TEXT or not captions_in(file.read(sample.text[1]), sample.kind):
                    lacks[1] += 1
                    continue
                rows.append((*sample.image, *sample.text, TEXTS.index(sample.kind)))
            code = mark(file)
    except Unreachable:
        raise
    except (Damaged, OSError) as error:
        return str(error)
    with replacing(table) as new:
        np.array(rows, ROW).tofile(new)
    return code, len(rows), *lacks


def _table(name: str) -> str:
    return f"{stable_hash(name):016x}.rows"


def _read_journal(path: Path) -> dict[str, list]:
    """What is known of each shard; a line that a kill cut off, and what another version wrote, counts for nothing."""
    found: dict[str, list] = {}
    if not path.exists():
        return found
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                version, name, *entry = parse_json(line, str(path))
                if version == VERSION and len(entry) == 6 and (path.parent / _table(name)).exists():
                    found[name] = entry
            except (ValueError, TypeError):
                continue
    return found
