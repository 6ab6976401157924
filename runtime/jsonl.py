"""The run's own record: metrics.jsonl, exact across kills and full disks, and timing.jsonl for what depends on the clock."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from files import parse_json, replacing, why_not_written

FILES = ("metrics.jsonl", "timing.jsonl")


class Growing:
    """A file that lines are added to. What cannot be written is kept in memory, in order, and tried again.

    `start` bytes are known to be on the disk, and `tail` follows them; the first `written` bytes of the tail have been
    handed to the system. Each byte has its place in the file, so that trying again repeats nothing and leaves no gap.
    """

    def __init__(self, path: Path, start: int | None = None, tail: bytes = b"") -> None:
        self.path, self.start, self.tail, self.written = path, start, bytearray(tail), 0
        self.error: OSError | None = None
        self._file: int | None = None

    def add(self, line: str) -> None:
        self.tail += line.encode()
        self.push()

    def push(self) -> bool:
        """Hands the tail to the system; False if it takes no more, with one warning."""
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
            if self.start is None:
                self.start = os.fstat(self._file).st_size
            while self.written < len(self.tail):  # a write may take a part
                took = os.pwrite(self._file, bytes(self.tail[self.written :]), self.start + self.written)
                if not took:
                    raise OSError(errno.ENOSPC, "nothing was written")
                self.written += took
        except OSError as error:
            return self._failed(error)
        if self.error:
            print(f"{self.path.name} is written again, nothing is missing", flush=True)
        self.error = None
        return True

    def sync(self) -> bool:
        """Whether everything is on the disk now."""
        if not self.tail and self.error is None:
            return True
        if not self.push():
            return False
        try:
            os.fsync(self._file)
        except OSError as error:
            self.written = 0  # what was handed over may be lost: all of the tail goes again
            return self._failed(error)
        self.start, self.tail, self.written = self.start + len(self.tail), bytearray(), 0
        return True

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _failed(self, error: OSError) -> bool:
        if self.error is None:
            why = why_not_written(error, self.path.parent)
            print(f"warning: {self.path.name} waits in memory until it can be written: {why}", flush=True)
        self.error = error
        return False


class JsonlLogger(Logger):
    """Appends one JSON line per call, `{"step": …, "images": …, …}`; keys named `time/…` go to timing.jsonl.

    A resumed run calls `rewind` first, so that each step is in the file exactly once. A disk that takes no more costs
    no line: they wait in memory, and a checkpoint that is written meanwhile carries them (`unwritten`).
    """

    def __init__(self, dir: str | Path) -> None:
        super().__init__()
        self.dir = Path(dir)
        self._files = {name: Growing(self.dir / name) for name in FILES}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        clock = {k: v for k, v in metrics.items() if k.startswith("time/")}
        rest = {k: v for k, v in metrics.items() if k not in clock}
        self._append(FILES[0], {"step": step, **rest})
        if clock:
            self._append(FILES[1], {"step": step, **clock})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._files[name].add(json.dumps(line) + "\n")

    def save(self) -> None:
        """Brings all lines to the disk, as far as it takes them."""
        for file in self._files.values():
            file.sync()

    def unwritten(self) -> dict[str, dict[str, Any]]:
        """By file what `save` could not bring to the disk: the text, and the byte of the file where it belongs."""
        left = {name: file for name, file in self._files.items() if file.tail}
        return {name: {"start": file.start or 0, "text": file.tail.decode()} for name, file in left.items()}

    def rewind(self, step: int, unwritten: dict[str, dict[str, Any]] | None = None) -> None:
        """Drops lines after `step`, an incomplete last line, and damaged lines.

        Args:
            unwritten: what the checkpoint of that step carries for the files; they get it as soon as they can.
        Raises: OSError if a file must be written anew and cannot be.
        """
        self.close()
        for name in FILES:
            path, carried = self.dir / name, (unwritten or {}).get(name)
            there = path.read_bytes() if path.exists() else b""
            wanted = there if carried is None else there[: carried["start"]] + carried["text"].encode()
            kept = b"".join(_until(step, wanted, path))
            same = len(kept) if there.startswith(kept) else len(os.path.commonprefix([there, kept]))
            if same < len(kept) and carried is None:
                with replacing(path, durable=True) as fresh:
                    fresh.write_bytes(kept)
                same = len(kept)
            elif same < len(there):
                os.truncate(path, same)  # takes no space, and a kill leaves the file cut or not
            self._files[name] = Growing(path, same, kept[same:])
            self._files[name].sync()

    def close(self) -> OSError | None:
        """Writes what is left and lets go of the files; the error if something is still not on the disk."""
        self.save()
        for file in self._files.values():
            file.close()
        return next((file.error for file in self._files.values() if file.error), None)

    def finalize(self, status: str) -> None:
        self.close()

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The configuration is in config.yaml."""


def _until(step: int, data: bytes, path: Path) -> list[bytes]:
    """The lines up to a step. A damaged one among them is named; after them a kill or a torn write is nothing to tell."""
    lines = _lines(data, path)
    kept = [number for number, _, line in lines if line["step"] <= step]
    for number, _, line in lines:  # steps never go back
        if line["step"] > step and kept and number < kept[-1]:
            _name(path, number)
    torn = re.match(rb'{"step": (\d+)\D', data[data.rfind(b"\n") + 1 :])
    if torn and max((line["step"] for _, _, line in lines), default=-1) < int(torn[1]) <= step:
        _name(path, data.count(b"\n") + 1)
    return [text for _, text, line in lines if line["step"] <= step]


def _name(path: Path, number: int) -> None:
    print(f"warning: {path}: line {number} is damaged and left out", flush=True)


def _lines(data: bytes, path: Path) -> list[tuple[int, bytes, dict[str, Any]]]:
    """The complete lines with their numbers, each a JSON object with a step. Damaged lines are named and left out."""
    found = []
    parts = data.split(b"\n")
    for number, text in enumerate(parts[:-1], 1):  # what follows the last line end is torn
        try:
            line = parse_json(text, "a line")
        except ValueError:
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append((number, text + b"\n", line))
        else:
            _name(path, number)
    return found


def last_values(dir: Path) -> dict[str, Any]:
    """The newest value of every metric of a run."""
    values: dict[str, Any] = {}
    for path in (dir / name for name in FILES):
        for _, _, line in _lines(path.read_bytes(), path) if path.exists() else ():
            values |= line
    return values
