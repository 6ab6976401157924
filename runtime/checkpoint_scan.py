"""Checks a checkpoint file before torch reads it: a file from somebody else must not run code or fill the memory."""

from __future__ import annotations

import os
import pickletools
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

import torch

MAX_DIRECTORY_BYTES = 2**24  # of the archive's list of records
MAX_PICKLE_BYTES = 2**23  # of the structure without the numbers; a checkpoint of 3,000 weights has 3 MB
MAX_OPERATIONS = 2_000_000
MAX_DEPTH = 50
FOLDER = 0x10  # of a record's attributes, as MS-DOS has them
# The words of pickle's language that torch.save uses for containers, text, numbers and tensors.
OPERATIONS = frozenset(
    "APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPERSID BINPUT BINUNICODE BUILD EMPTY_DICT EMPTY_LIST "
    "EMPTY_TUPLE GLOBAL LONG1 LONG_BINGET LONG_BINPUT MARK NEWFALSE NEWTRUE NONE PROTO REDUCE SETITEM SETITEMS STOP "
    "TUPLE TUPLE1 TUPLE2 TUPLE3".split()
)
# What such a file may name. torch's own list is longer: bytearray(10**12) is on it.
NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch (Size|device)|torch [A-Z][A-Za-z0-9]*Storage"
    r"|torch\.storage UntypedStorage|torch (float|bfloat|int|uint|bool|complex)\w*"
)


def check_archive(path: Path) -> None:
    """Raises ValueError, in one line, unless the file is an archive as torch.save writes it, of plain values and tensors.

    Nothing is unpacked and nothing is built; time and memory are bounded by the size of the file.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        _check_directory(path, found.st_size)
        with zipfile.ZipFile(path) as archive:
            structure = _structure(archive, found.st_size)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint ({why})") from None
    if wanted := foreign_name(structure, path):
        raise ValueError(f"{path} cannot be loaded as plain tensors: it holds {wanted}")


def foreign_name(structure: bytes, path: Path) -> str | None:
    """The first thing in a pickle that plain values and tensors do not need, None if there is none."""
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(structure)):
            if count > MAX_OPERATIONS:
                return f"more than {MAX_OPERATIONS:,} values"
            if operation.name == "GLOBAL" and not NAMES.fullmatch(argument):
                return shortened(argument.replace(" ", "."))
            if operation.name not in OPERATIONS:
                return f"the pickle instruction {operation.name}"
            if operation.name == "LONG1" and abs(argument) >= 2**63:
                return "an integer of more than 64 bits"
    except Exception:  # damage shows as one of many errors
        raise ValueError(f"{path} is damaged or not a checkpoint (its structure cannot be read)") from None
    return None


def plain(value: Any, path: Path, where: str = "", depth: int = 0, seen: list[int] | None = None) -> Any:
    """The contents in containers of Python's own, with tensors that hold all the numbers they claim.

    Raises: ValueError, in one line, for anything else, and for what is nested without end.
    """
    seen = [0] if seen is None else seen
    seen[0] += 1
    if depth > MAX_DEPTH or seen[0] > MAX_OPERATIONS:
        raise ValueError(f"{path} is damaged or hostile: {where[:80] or 'its content'} is nested too deep or too often")
    if isinstance(value, torch.Tensor):
        return _whole(value, path, where)
    if isinstance(value, dict):
        # dict.items: a pickle can give an OrderedDict an attribute of that name.
        return {_key(k, path, where): plain(v, path, f"{where}.{k}", depth + 1, seen) for k, v in dict.items(value)}
    if isinstance(value, (torch.Size, torch.device, torch.dtype)):
        return value
    if isinstance(value, (list, tuple)):
        return type(value)([plain(v, path, f"{where}[{i}]", depth + 1, seen) for i, v in enumerate(value)])
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{path} is damaged or hostile: it holds a {type(value).__name__} at {where[:80] or 'the top'}")


def shortened(text: str) -> str:
    """Text from somebody else for a message: one line of at most 100 printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in str(text))
    return text if len(text) <= 100 else text[:97] + "..."


def _check_directory(path: Path, size: int) -> None:
    """Refuses a list of records that would not fit in memory before Python's zipfile reads it."""
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**16 - 200))
        tail = file.read()
    for signature, at, width in ((b"PK\x05\x06", 12, 4), (b"PK\x06\x06", 40, 8)):
        place = tail.rfind(signature)
        if place >= 0 and int.from_bytes(tail[place + at : place + at + width], "little") not in range(MAX_DIRECTORY_BYTES):
            if width == 4 and tail[place + at : place + at + 4] == b"\xff" * 4:
                continue  # the true number stands in the other record
            raise ValueError("its list of records is too long")


def _structure(archive: zipfile.ZipFile, size: int) -> bytes:
    """The pickle of the archive. Raises ValueError for compressed records, or more bytes than the file has."""
    records = archive.infolist()
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise ValueError(f"{shortened(record.filename)} in it is compressed, which no checkpoint is")
        if record.external_attr & FOLDER:  # torch would leave its memory as it was, and take that for the contents
            raise ValueError(f"{shortened(record.filename)} in it is marked as a folder")
    if sum(record.file_size for record in records) > size or len({r.filename for r in records}) != len(records):
        raise ValueError("its records overlap")
    pickles = [record for record in records if record.filename.endswith(".pkl")]
    if [record.filename.count("/") for record in pickles] != [1] or not pickles[0].filename.endswith("/data.pkl"):
        raise ValueError("it has not the form in which torch saves")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ValueError(f"its structure has {pickles[0].file_size:,} bytes, at most {MAX_PICKLE_BYTES:,} are read")
    if archive.testzip() is not None:
        raise ValueError("its checksums do not fit")
    return archive.read(pickles[0])


def _key(key: Any, path: Path, where: str) -> Any:
    if isinstance(key, (str, int)):
        return key
    raise ValueError(f"{path} is damaged or hostile: a {type(key).__name__} is a key at {where[:80] or 'the top'}")


def _whole(value: torch.Tensor, path: Path, where: str) -> torch.Tensor:
    name = f"{path} is damaged or hostile: the tensor {where.lstrip('.')[:80]}"
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise ValueError(f"{name} is not a plain one")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} claims {value.numel():,} numbers and holds fewer")
    return value
