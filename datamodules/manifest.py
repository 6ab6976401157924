"""Which of a folder's images can be used: every file is decoded once, and the verdicts are kept for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datamodules.caption_sources import Sample, Source
from datamodules.decode import BadImage, verify
from datamodules.sampler import stable_hash

VERSION = 1  # raise when the verdict on an unchanged file can change
_REPORT_EVERY_SEC = 10.0


@dataclass(frozen=True)
class Bad:
    """A file that is not used, why, and what the decoder said."""

    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Manifest:
    """The usable samples with their sizes in bytes, the rest with reasons, and where the list of the rest is."""

    samples: list[Sample]
    sizes: list[int]
    bad: list[Bad]
    bad_list: Path

    @property
    def total(self) -> int:
        return len(self.samples) + len(self.bad)

    def summary(self) -> str:
        """One line, as `9,990 of 10,000 images usable; 6 truncated, 4 missing; list: FILE`."""
        line = f"{len(self.samples):,} of {self.total:,} images usable"
        return f"{line}; {count_reasons(self.bad)}; list: {self.bad_list}" if self.bad else line

    def require(self, max_bad_fraction: float) -> None:
        """Raise ValueError where too much is unusable to be an accident."""
        if self.samples and len(self.bad) <= max_bad_fraction * self.total:
            return
        share = f"{len(self.bad):,} of {self.total:,} images cannot be used ({count_reasons(self.bad)})"
        remedy = "mend or remove them" + (", or raise the limit" if self.samples else "")
        limit = f"data.max_bad_fraction={max_bad_fraction:g}"
        raise ValueError(f"{share}, more than {limit}; {remedy}; list: {self.bad_list}")

    def digest(self) -> str:
        """Hex digest of names, sizes and captions of the usable samples; a copy of the folder has the same."""
        digest = hashlib.blake2b(digest_size=16)
        for sample, size in zip(self.samples, self.sizes):
            digest.update(repr((sample.file, size, sample.captions)).encode())
        return digest.hexdigest()


def count_reasons(bad: Iterable[Bad]) -> str:
    """`6 truncated, 4 missing`, most frequent first."""
    return ", ".join(f"{n:,} {reason}" for reason, n in Counter(b.reason for b in bad).most_common())


def manifest_folder(cache_dir: str | Path, root: Path, annotations: str | None) -> Path:
    """Where the verdicts on a folder are kept: one place per folder and captions file."""
    return Path(cache_dir).expanduser() / "captions" / f"{stable_hash(str(root.resolve()), annotations or ''):016x}"


def build_manifest(root: Path, source: Source, folder: Path) -> Manifest:
    """Sort the source's samples into usable and not, decoding what is new or changed since the last call.

    Args:
        root: the image folder, which sample files are relative to.
        folder: where `verdicts.jsonl` and `bad_files.jsonl` are kept.
    Raises: ValueError where not one of the captions has an image: most likely root is the wrong folder.
    """
    stats = {sample.file: _stat(root / sample.file) for sample in source.samples}
    if source.samples and all(stat == _GONE for stat in stats.values()):
        first = root / source.samples[0].file
        raise ValueError(f"none of the {len(stats):,} captioned images is under data.root={root}: looked for {first}")
    known = _read_verdicts(folder / "verdicts.jsonl")
    fresh = [f for f, stat in stats.items() if known.get(f, ())[:2] != stat]
    for file, bad in _scan(root, fresh):
        known[file] = (*stats[file], bad.reason, bad.detail)
    if fresh:
        lines = ([file, *known[file]] for file in stats)
        _write_lines(folder / "verdicts.jsonl", [{"version": VERSION}, *lines])
    samples, sizes, bad_files = [], [], [Bad(name, "missing", "caption without image") for name in source.orphans]
    for sample in source.samples:
        size, _, reason, detail = known[sample.file]
        if reason:
            bad_files.append(Bad(sample.file, reason, detail))
        elif not sample.captions:
            bad_files.append(Bad(sample.file, "without caption"))
        else:
            samples.append(sample)
            sizes.append(size)
    bad_list = folder / "bad_files.jsonl"
    _write_lines(bad_list, [vars(bad) for bad in bad_files])
    return Manifest(samples, sizes, bad_files, bad_list)


_GONE = (-1, -1)
Verdict = tuple[int, int, str, str]  # size in bytes, mtime in ns, reason ('' = usable), detail


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL in it
        return _GONE
    return stat.st_size, stat.st_mtime_ns


def _scan(root: Path, files: list[str]) -> Iterator[tuple[str, Bad]]:
    """Decode files in threads (Pillow releases the interpreter lock), with a line of progress every ten seconds."""

    def judge(file: str) -> Bad:
        try:
            verify(root / file)
        except BadImage as bad:
            return Bad(file, bad.reason, bad.detail)
        except ValueError as error:
            return Bad(file, "missing", str(error))
        return Bad(file, "")

    begin = last = time.monotonic()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done, bad in enumerate(pool.map(judge, files), start=1):
            yield bad.file, bad
            if time.monotonic() - last > _REPORT_EVERY_SEC:
                last = time.monotonic()
                left = (last - begin) / done * (len(files) - done)
                print(f"checked {done:,} of {len(files):,} new images, about {left:.0f} s left", file=sys.stderr)


def _read_verdicts(path: Path) -> dict[str, Verdict]:
    """What an earlier scan found; nothing where there is none, or one that is damaged or of another version.

    Files it could not read are left out: permissions and disks are mended without the file changing.
    """
    try:
        header, *lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if header != {"version": VERSION}:
            return {}
        return {file: (size, mtime, why, detail) for file, size, mtime, why, detail in lines if why != "unreadable"}
    except (OSError, ValueError):
        return {}


def _write_lines(path: Path, lines: Iterable[object]) -> None:
    """Write JSON lines so that a reader on another rank sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    os.replace(temporary, path)
