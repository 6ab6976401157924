"""Reading and writing files so that a kill, a full disk or somebody else's file costs nothing. Standard library only."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 64 * 2**20
NOT_WRITTEN = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than files may be here",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
}


class Unreachable(OSError):
    """What lies on the network could not be read, in one line."""


@contextmanager
def replacing(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` for the block to write; it takes the place of `path` where the block ends well.

    Args:
        durable: also wait until the file and its name are on the disk, so that a power cut leaves the old or the new.
    Raises: what the block raises; the temporary file is gone and `path` is as it was.
    """
    path = Path(path)
    fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        yield fresh
        if durable:
            _flush(fresh)
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        _flush(path.parent)


def write_text(path: str | Path, text: str, *, durable: bool = False) -> None:
    """Writes UTF-8 text in one step, and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=durable) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, durable: bool = False) -> None:
    """Writes indented JSON in one step."""
    write_text(path, json.dumps(value, indent=1) + "\n", durable=durable)


def open_regular(path: str | Path, most: int) -> BinaryIO:
    """A regular file of at most `most` bytes, open for reading.

    Raises: FileNotFoundError, or ValueError for a larger file and for what is no file: reading a pipe may never end.
    """
    path = Path(path)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise ValueError(f"{path} is not a regular file")
    if found.st_size > most:
        os.close(file)
        raise ValueError(f"{path} has {found.st_size / 2**20:.1f} MiB: at most {most / 2**20:.1f} are read here")
    return open(file, "rb")


def read_bytes(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises: as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read()


def parse_json(text: str | bytes, where: str) -> Any:
    """JSON from somebody else.

    Raises: ValueError, naming `where`, for what is broken, nested too deep, too long a number, or a key given twice.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ValueError(f"{where} is not valid JSON: {why}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key that comes twice, readers would take one value or the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} comes twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # made once: a million lines need it a million times


def read_json(path: str | Path, most: int = MAX_JSON_BYTES) -> Any:
    """The JSON of a file. Raises: FileNotFoundError, or ValueError, in one line, as of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most), str(path))


def inside(path: str | Path, root: str | Path) -> bool:
    """Whether a path, all links followed, lies in the folder `root`, all links followed, or is it."""
    real, top = os.path.realpath(path), os.path.realpath(root)
    return real == top or real.startswith(top.rstrip(os.sep) + os.sep)


def printable(text: Any) -> str:
    """Somebody else's text for a terminal or a message: on one line, and nothing in it that a terminal obeys.

    Control characters, those that reverse the direction of writing, and bytes that are no UTF-8 are spelled out.
    """
    text = str(text)
    return text if text.isascii() and text.isprintable() else "".join(map(_spelled, text))


def _spelled(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that no more can be written: disk full, quota used up, or a limit on the size of files."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def why_not_written(error: OSError, folder: str | Path, needed: int | None = None) -> str:
    """One clause for a warning: why nothing was written, to which folder, and where it is a matter of space, how much.

    Args:
        needed: bytes of what should have been written, where that is known.
    """
    why = NOT_WRITTEN.get(error.errno or 0) or error.strerror or str(error)
    if not disk_is_full(error):
        return f"{folder}: {why}"
    import resource  # not on every system

    numbers = [] if needed is None else [f"{megabytes(needed)} needed"]
    if (most := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY and error.errno == errno.EFBIG:
        numbers.append(f"ulimit -f allows {megabytes(most)}")
    return f"{folder}: {why}: {', '.join([*numbers, f'{megabytes(free_bytes(folder))} free'])}"


def free_bytes(folder: str | Path) -> int:
    """What can still be written to the disk of a folder, which need not exist yet. A quota is not seen."""
    folder = Path(folder).absolute()
    usage = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists()))
    return usage.free if usage.total else 2**63  # some file systems keep no count


def megabytes(count: int) -> str:
    """Bytes for people: 12.3 MB."""
    return f"{count / 1e6:.1f} MB"


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
