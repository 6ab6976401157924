"""Tar files of captioned images, as WebDataset and img2dataset write them: where in the file each sample's image and caption lie.

0001.jpg, 0001.txt and 0001.json belong together. A tar is not compressed, so that any sample can be read by its place alone.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from datamodules.decode import EXTENSIONS, MAX_BYTES
from files import parse_json

Captions = str | list[str] | None
Place = tuple[int, int]  # first byte in the tar, and number of bytes
NAMES = ("text", "caption", "captions", "prompt")  # columns and JSON keys that are taken for captions, the first that is there
TEXTS = ("txt", "json")  # files that hold captions; where a sample has both, the first
_PART = 2**16  # bytes


class Damaged(Exception):
    """A shard that cannot be read to its end: where, and why."""


@dataclass(frozen=True, slots=True)
class TarSample:
    """Where a sample's parts lie, None where it lacks one; `kind` is what its caption is stored as, one of TEXTS."""

    image: Place | None
    text: Place | None
    kind: str


def tar_samples(file: BinaryIO) -> Iterator[TarSample]:
    """The samples of a tar, in order; files of more than 512 MiB are left out. Between two, `file` may be read elsewhere. Raises: Damaged."""
    key, found, end = "", {}, 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                tar.members.clear()  # which tarfile would keep for every file it has seen
                if not member.isreg():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if f"{folder}/{stem}" != key:
                    if found:
                        yield _sample(found)
                    key, found = f"{folder}/{stem}", {}
                if member.size <= MAX_BYTES:
                    found[kind.lower()] = member.offset_data, member.size
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Damaged(f"at byte {end:,}: {error}") from None
    if found:
        yield _sample(found)
    file.seek(end)
    rest = file.read(tarfile.BLOCKSIZE)  # tarfile takes a header that is cut off or damaged for the end
    if rest.strip(b"\0") or len(rest) < tarfile.BLOCKSIZE:
        raise Damaged(f"at byte {end:,}: neither another file nor the mark of the end")


def _sample(found: dict[str, Place]) -> TarSample:
    image = next((place for kind, place in found.items() if f".{kind}" in EXTENSIONS), None)
    kind = next((kind for kind in TEXTS if kind in found), TEXTS[0])
    return TarSample(image, found.get(kind), kind)


def captions_in(content: bytes, kind: str) -> Captions:
    """The caption or captions of a text file (`txt`), or of JSON with one of NAMES; None where there are none."""
    if kind == "txt":
        return content.decode("utf-8", "replace").strip() or None
    try:
        told = parse_json(content, "a sample's json")
    except ValueError:
        return None
    return captions_of(told) if isinstance(told, dict) else None


def captions_of(row: dict[str, Any]) -> Captions:
    """The caption or captions of a row: under the first of NAMES that is there and not empty."""
    value = next((row[name] for name in NAMES if row.get(name)), None)
    if isinstance(value, list):
        return [text.strip() for text in value if isinstance(text, str) and text.strip()] or None
    return value.strip() or None if isinstance(value, str) else None


def mark(file: BinaryIO) -> str:
    """What tells a shard from another one without reading all of it: its size, and a hash of its first and last part."""
    size, code = os.fstat(file.fileno()).st_size, hashlib.blake2b(digest_size=8)
    for begin in (0, max(0, size - _PART)):
        file.seek(begin)
        code.update(file.read(_PART))
    return f"{size}-{code.hexdigest()}"
