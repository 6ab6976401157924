"""Which of a folder's images can be used: every file is decoded once, and the verdicts are kept for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from datamodules.caption_sources import ALLOW, MAX_DEPTH, TOO_DEEP, Bad, Sample, Source
from datamodules.caption_tables import lines
from datamodules.decode import BadImage, verify
from datamodules.progress import Progress
from files import inside, parse_json, printable, replacing
from rng.hashing import stable_hash

VERSION = 1  # raise when the verdict on an unchanged file can change
_AT_ONCE = 32  # files that a thread judges before it tells


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
        if outside := next((bad.file for bad in self.bad if bad.reason == "outside_root"), None):
            remedy += f", or read what lies outside data.root ({printable(outside)}) with {ALLOW}"
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


def manifest_folder(cache_dir: str | Path, root: Path, annotations: str | None, kind: str = "captions") -> Path:
    """Where the verdicts on a folder are kept: one place per folder and captions file."""
    return Path(cache_dir).expanduser() / kind / f"{stable_hash(str(root.resolve()), annotations or ''):016x}"


def build_manifest(root: Path, source: Source, folder: Path, allow_outside: bool = False) -> Manifest:
    """Sort the source's samples into usable and not, decoding what is new or changed since the last call.

    Args:
        root: the image folder, which sample files are relative to.
        folder: where `verdicts.jsonl` and `bad_files.jsonl` are kept.
        allow_outside: take files that lie outside root, by their path or through links.
    Raises: ValueError where not one of the captions has an image: most likely root is the wrong folder.
    """
    find = Places(root, allow_outside)
    progress = Progress("looked for {} images", len(source.samples))
    found: list[Stat | Bad] = []
    for count, sample in enumerate(source.samples, start=1):
        found.append(find(sample.file))
        if not count & 0x3FFF:
            progress.tell(count)
    if found and all(isinstance(one, Bad) and one.reason == "missing" for one in found):
        first = root / source.samples[0].file
        raise ValueError(f"none of the {len(found):,} captioned images is under data.root={root}: looked for {first}")
    known = _read_verdicts(folder / "verdicts.jsonl")
    there = {sample.file: one for sample, one in zip(source.samples, found) if not isinstance(one, Bad)}
    fresh = [file for file, stat in there.items() if known.get(file, ())[:2] != stat]
    for file, bad in _scan(root, fresh):
        known[file] = (*there[file], bad.reason, bad.detail)
    if fresh:
        _write_lines(folder / "verdicts.jsonl", _verdict_lines(known, there))
    samples, sizes, bad_files = [], [], [Bad(name, "missing", "caption without image") for name in source.orphans]
    bad_files += source.refused
    for sample, one in zip(source.samples, found):
        if isinstance(one, Bad):
            bad_files.append(one)
            continue
        size, _, reason, detail = known[sample.file]
        if reason:
            bad_files.append(Bad(sample.file, reason, detail))
        elif source.captioned and not sample.captions:
            bad_files.append(Bad(sample.file, "without caption"))
        else:
            samples.append(sample)
            sizes.append(size)
    bad_list = folder / "bad_files.jsonl"
    _write_lines(bad_list, ({"file": b.file, "reason": b.reason, "detail": b.detail} for b in bad_files))
    return Manifest(samples, sizes, bad_files, bad_list)


Stat = tuple[int, int]  # size in bytes, mtime in ns
Verdict = tuple[int, int, str, str]  # of `Stat`, reason ('' = usable), detail


class Places:
    """Finds the files that captions name: `places(file)` is a regular file's `Stat`, or why it is not used.

    One call to the system for most files: links are followed, and folders resolved once each.

    Args:
        allow_outside: False refuses what lies outside root, all links followed.
    """

    def __init__(self, root: Path, allow_outside: bool) -> None:
        self.root, self.allow_outside = str(root), allow_outside
        self._folders: dict[str, tuple[str, str] | None] = {}

    def __call__(self, file: str) -> Stat | Bad:
        if file.count("/") > MAX_DEPTH + self.root.count("/"):
            return Bad(file, "unreadable", TOO_DEEP)
        path = file if file.startswith("/") else f"{self.root}/{file}"
        try:
            folder = self._folder(path.rpartition("/")[0] or "/")
            if folder is not None:
                return Bad(file, *folder)
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                if not (self.allow_outside or inside(path, self.root)):
                    return Bad(file, "outside_root", f"a link out of data.root; {ALLOW} takes it")
                found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return Bad(file, "missing")
        except OSError as error:
            return Bad(file, "unreadable", error.strerror or "")
        except ValueError as error:  # a name with a NUL in it
            return Bad(file, "missing", str(error))
        if not stat.S_ISREG(found.st_mode):
            return Bad(file, "unreadable", _KINDS.get(stat.S_IFMT(found.st_mode), "not a file"))
        return found.st_size, found.st_mtime_ns

    def _folder(self, folder: str) -> tuple[str, str] | None:
        """Why nothing in a folder is used: reason and detail; None where files in it may be."""
        if folder not in self._folders:
            why = None
            if not (self.allow_outside or inside(folder, self.root)):
                why = "outside_root", f"a path out of data.root; {ALLOW} takes it"
            elif not os.path.lexists(folder):
                why = "missing", ""
            self._folders[folder] = why
        return self._folders[folder]


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"} | dict.fromkeys(
    (stat.S_IFBLK, stat.S_IFCHR), "a device"
)


def _scan(root: Path, files: list[str]) -> Iterator[tuple[str, Bad]]:
    """Decode files in threads (Pillow releases the interpreter lock), with a line of progress now and then."""

    def judge(part: list[str]) -> list[Bad]:
        return [_judge(root, file) for file in part]

    progress = Progress(f"checked {{}} of {len(files):,} new images", len(files))
    threads, done = min(8, os.cpu_count() or 1), 0
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[list[Bad]]] = deque()
        for start in range(0, len(files), _AT_ONCE):  # few at a time: a million waiting tasks take gigabytes
            waiting.append(pool.submit(judge, files[start : start + _AT_ONCE]))
            while len(waiting) > 4 * threads or waiting and start + _AT_ONCE >= len(files):
                for bad in waiting.popleft().result():
                    done += 1
                    yield bad.file, bad
                    progress.tell(done)


def _judge(root: Path, file: str) -> Bad:
    try:
        verify(root / file)
    except BadImage as bad:
        return Bad(file, bad.reason, bad.detail)
    return Bad(file, "")


def _verdict_lines(known: dict[str, Verdict], there: dict[str, Stat]) -> Iterator[object]:
    yield {"version": VERSION}
    for file in there:
        yield [file, *known[file]]


def _read_verdicts(path: Path) -> dict[str, Verdict]:
    """What an earlier scan found; nothing where there is none, or one that is damaged or of another version.

    Files it could not read are left out: permissions and disks are mended without the file changing.
    """
    found: dict[str, Verdict] = {}
    try:
        for number, line in enumerate(lines(path), start=1):
            entry = parse_json(line, str(path))
            if number == 1 and entry != {"version": VERSION}:
                return {}
            if number > 1:
                file, size, mtime, why, detail = entry
                if tuple(map(type, entry)) != (str, int, int, str, str):
                    return {}
                if why != "unreadable":
                    found[file] = (size, mtime, why, detail)
    except (FileNotFoundError, ValueError, TypeError):
        return {}
    return found


def _write_lines(path: Path, entries: Iterable[object]) -> None:
    """Write JSON lines so that a reader on another rank sees the old file or the new one, never half of it.

    Where they cannot be written, that is told and nothing more: they only save the next run's time.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as fresh, open(fresh, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
    except OSError as error:
        warnings.warn(f"{path} is not kept: {error.strerror or error}", stacklevel=2)
