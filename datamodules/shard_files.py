"""Where tar shards lie: in a folder, or at a URL, from which each is fetched when it is first read and kept within a budget of disk."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock

from datamodules.caption_sources import check_root, walk
from files import Unreachable, disk_is_full, printable, replacing, why_not_written
from rng.hashing import stable_hash

Stat = tuple[int, int]  # size in bytes, and a number that changes with the content
WAITS_SEC = (1.0, 5.0, 30.0, 120.0, 300.0)  # between the attempts to fetch a shard
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "Content-MD5", "Last-Modified", "LastModified", "last_modified", "mtime", "created")  # of fsspec's file systems
_ASKED_AT_ONCE = 16
_LEFT_OVER_SEC = 3600.0  # after which a file that nobody goes on writing is what a kill left
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10**6


@dataclass(frozen=True)
class ShardFolder:
    """Tar shards below a folder, at any depth."""

    root: Path
    many: ClassVar[int] = 256  # new shards from which several processes read them: starting one takes as long as reading some thousand samples

    @property
    def where(self) -> str:
        """The folder, for messages."""
        return str(self.root)

    def listing(self) -> dict[str, Stat]:
        """Size and time of every shard, by its name below the root, sorted. Raises: FileNotFoundError or ValueError in one line."""
        check_root(self.root)
        there = list(walk(self.root, True))
        names = sorted(name for name in there if name.endswith(".tar"))
        if not names:
            parquet = any(name.endswith(".parquet") for name in there)
            remedy = f": python -m datamodules.shards {self.root} OUT unpacks .parquet files" if parquet else "; a captioned folder is data=captions"
            raise ValueError(f"data.root: {self.root} holds no .tar files{remedy}")
        return {name: (found.st_size, found.st_mtime_ns) for name in names for found in [os.stat(self.root / name)]}

    def place(self, name: str) -> str:
        """Where a shard lies, for messages."""
        return str(self.root / name)

    def open(self, name: str) -> int:
        """A file descriptor for reading. Raises: OSError."""
        return os.open(self.root / name, os.O_RDONLY)


@dataclass
class RemoteShards:
    """Tar shards at a URL of any file system that fsspec knows; those read last are kept in a folder, the oldest make room.

    Processes of one machine may share the folder. A shard that is removed while another process reads it stays readable there.

    Args:
        url: of a folder, or of files with numbers in braces: s3://bucket/cc3m/{00000..00331}.tar.
        folder: of the kept files; nothing else may lie in it.
        most_bytes: that the kept files may take.
    """

    url: str
    folder: Path
    most_bytes: int
    many: ClassVar[int] = 8  # as of ShardFolder; here they wait for the network
    _at: dict[str, tuple[str, Stat]] = field(default_factory=dict, compare=False, repr=False)  # name -> place, stat

    @property
    def where(self) -> str:
        """The URL, for messages."""
        return self.url

    def listing(self) -> dict[str, Stat]:
        """Size and version of every shard, by its name below the folder, sorted. Raises: ValueError, FileNotFoundError, Unreachable in one line."""
        urls = list(itertools.islice(expanded(self.url), _MOST_SHARDS)) if self.url.endswith(".tar") else []
        with _one_line(f"data.root: {self.url}"):
            system, top = _system(self.url.partition("{")[0])
            if urls:
                base = self.url.partition("{")[0].rpartition("/")[0] + "/"
                found = {url.removeprefix(base): (system._strip_protocol(url), {}) for url in urls}
            else:
                there = system.find(top, detail=True)
                if not there:
                    system.ls(top)  # says what is wrong, which `find` does not
                found = {place.removeprefix(top).lstrip("/"): (place, info) for place, info in there.items() if place.endswith(".tar")}
            unknown = [place for place, info in found.values() if not info.get("size")]  # a web server lists names alone
            pool = ThreadPoolExecutor(_ASKED_AT_ONCE)
            try:
                infos = dict(zip(unknown, pool.map(system.info, unknown)))
            finally:
                pool.shutdown(cancel_futures=True)  # after the first that is missing, nobody asks for the others
        if not found:
            raise ValueError(f"data.root: {self.url} holds no .tar files; a web server that lists none needs their names, as in …/{{00000..00099}}.tar")
        self._at = {name: (place, _stat(infos.get(place, info))) for name, (place, info) in sorted(found.items())}
        return {name: stat for name, (_, stat) in self._at.items()}

    def require(self, mixed: int | None) -> None:
        """Raises ValueError where the budget holds fewer shards than are read by turns: `mixed` at a time and the next ones, or all."""
        sizes = sorted((size for _, (size, _) in self._at.values()), reverse=True)
        needed = sum(sizes) if mixed is None else min(sum(sizes), 2 * sum(sizes[:mixed]))
        if needed <= self.most_bytes:
            return
        fits = next((n for n in range(len(sizes), 0, -1) if 2 * sum(sizes[:n]) <= self.most_bytes), 0)
        what = "all shards are mixed" if mixed is None else f"{mixed:,} shards are mixed at a time, and the next {mixed:,} follow"
        other = f", or mix fewer with data.mixed_shards={fits}" if fits else ""
        raise ValueError(f"data.cache_gb={self.most_bytes / 1e9:g} is too little: {what}, which takes {needed / 1e9:.3g} GB; raise it{other}")

    def place(self, name: str) -> str:
        """Where a shard lies, for messages."""
        return self._at[name][0]

    def open(self, name: str) -> int:
        """A file descriptor for reading, of the kept file; it is fetched first where there is none.

        Raises: FileNotFoundError where it is not there any more, Unreachable where it cannot be fetched or kept.
        """
        place, stat = self._at[name]
        path = self.folder / f"{stable_hash(name, *stat):016x}.tar"
        try:
            try:
                return _opened(path)
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{stable_hash(name) % 64:02d}.lock"):  # one process fetches it, others wait
                if not path.exists():
                    self._make_room(stat[0])
                    self._fetch(place, stat[0], path)
                return _opened(path)
        except (FileNotFoundError, Unreachable):
            raise
        except OSError as error:
            remedy = "make room, or give data.local_dir=FOLDER on another disk"
            raise Unreachable(f"{place} cannot be kept: {why_not_written(error, self.folder, stat[0])}; {remedy}") from None

    def _make_room(self, needed: int) -> None:
        """Removes the files that were opened longest ago, until `needed` more bytes fit."""
        kept, total = [], 0
        for path in self.folder.glob("*.tar*"):
            try:
                found = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            total += found.st_size
            if path.suffix == ".tar" or time.time() - found.st_mtime > _LEFT_OVER_SEC:
                kept.append((found.st_mtime_ns, found.st_size, path))
        for _, size, path in sorted(kept):
            if total + needed <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _fetch(self, place: str, size: int, path: Path) -> None:
        """Raises: as `open`, and OSError where the disk is full."""
        for wait_sec in (*WAITS_SEC, None):
            try:
                with replacing(path) as fresh:
                    _system(self.url.partition("{")[0])[0].get_file(place, str(fresh))
                    if size and fresh.stat().st_size != size:
                        raise OSError(f"{fresh.stat().st_size:,} bytes came of {size:,}")
                return
            except FileNotFoundError:
                raise
            except Exception as error:  # every file system has its own errors of the network
                if disk_is_full(error):
                    raise
                if wait_sec is None:
                    tries = len(WAITS_SEC) + 1
                    raise Unreachable(f"{place} could not be fetched in {tries} attempts: {_why(error)}") from None
                print(f"warning: {printable(place)}: {_why(error)}; once more in {wait_sec:g} s", file=sys.stderr, flush=True)
                time.sleep(wait_sec)


def shard_files(root: str, kept: Path, most_bytes: int) -> ShardFolder | RemoteShards:
    """The shards at `root`, a folder or a URL; `kept` is where those of a URL are kept."""
    return RemoteShards(root, kept / f"{stable_hash(root):016x}", most_bytes) if is_url(root) else ShardFolder(Path(root).expanduser())


def is_url(root: str) -> bool:
    """Whether data.root is a URL and no folder."""
    return "://" in root


def expanded(url: str) -> Iterator[str]:
    """`a{08..10}.tar` gives a08.tar, a09.tar, a10.tar. Raises: ValueError for numbers that fall, or far too many."""
    found = _NUMBERS.search(url)
    if not found:
        yield url
        return
    first, last = map(int, found.groups())
    if not 0 <= last - first < _MOST_SHARDS:
        raise ValueError(f"data.root: {found[0]} must name the first and the last number, at most {_MOST_SHARDS:,} of them")
    for number in range(first, last + 1):
        yield from expanded(f"{url[: found.start()]}{number:0{len(found[1])}d}{url[found.end() :]}")


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the place on it. A process asks for its own: its connections do not survive a fork."""
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def _stat(info: dict[str, Any]) -> Stat:
    version = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    return int(info.get("size") or 0), stable_hash(str(version))


def _opened(path: Path) -> int:
    file = os.open(path, os.O_RDONLY)
    os.utime(file)  # those opened longest ago make room
    return file


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Around what asks a file system: its errors as one line that begins with `what`."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{what}: {_why(error)} (with pip, into the environment of this repository)") from None
    except FileNotFoundError as error:
        cause = f" ({_why(error.__cause__)})" if error.__cause__ else ""  # of a web server that does not answer, among others
        raise FileNotFoundError(f"{what}: there is no {_why(error)}{cause}") from None
    except ValueError as error:
        raise ValueError(f"{what}: {_why(error)}") from None
    except Exception as error:  # every file system has its own errors of the network
        raise Unreachable(f"{what} cannot be read: {_why(error)}") from None


def _why(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)
