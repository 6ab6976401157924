"""Reads an offline W&B run back from disk: the file's records and the media beside it."""

from __future__ import annotations

import json
import struct
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


@dataclass
class Run:
    """What the run's file holds: rows as logged, configuration, and the folder of its media."""

    files: Path
    project: str = ""
    name: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # set after the start: what charts draw
    artifacts: dict[str, dict[str, Path]] = field(default_factory=dict)  # what travels with tables

    def last(self, key: str) -> Any:
        return next(row[key] for row in reversed(self.rows) if key in row)

    def media(self, key: str) -> Path:
        """The file of a logged table, picture or page."""
        path = self.files / self.last(key)["path"]
        assert path.is_file(), path
        return path

    def artifact(self, key: str) -> dict[str, Path]:
        """The files that a logged table takes along, by their names in it."""
        (found,) = [files for files in self.artifacts.values() if f"{key}.table.json" in files]
        return found

    def table(self, key: str) -> list[dict[str, Any]]:
        """Rows of a logged table; pictures are descriptions with the `path` of a file of its artifact."""
        assert self.media(key).is_file()
        content = json.loads(self.artifact(key)[f"{key}.table.json"].read_text())
        return [dict(zip(content["columns"], row)) for row in content["data"]]


def read_offline(folder: Path, patience_sec: float = 30.0) -> Run:
    """The only offline run under `folder`/wandb; W&B writes its last records after it says that the run is finished."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    run, end, found = Run(path.parent / "files"), time.monotonic() + patience_sec, []
    while not found or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < end, f"{path} has no end"
        time.sleep(0.05)
        found = [wandb_internal_pb2.Record.FromString(content) for content in records(path.read_bytes())]
    for record in found:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.project, run.name = record.run.project, record.run.display_name
            run.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            for item in record.config.update:
                run.settings["/".join(item.nested_key or [item.key])] = json.loads(item.value_json)
        elif kind == "history":
            run.rows.append(_row(record.history.item))
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            run.artifacts[record.artifact.name] = {entry.path: Path(entry.local_path) for entry in contents}
    return run


def _row(items: Any) -> dict[str, Any]:
    """{key: value}, and {key: {field: value}} for media, whose fields are items of their own."""
    row: dict[str, Any] = {}
    for item in items:
        keys = list(item.nested_key) or [item.key]
        value = json.loads(item.value_json)
        if len(keys) == 1:
            row[keys[0]] = value
        else:
            row.setdefault(keys[0], {})[keys[1]] = value
    return row


def records(content: bytes) -> list[bytes]:
    """LevelDB's log format after W&B's seven bytes of header: blocks of chunks with a checksum, length and kind.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    assert content[:4] == b":W&B"
    found, parts, at = [], [], HEADER
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        chunk = content[at + HEADER : at + HEADER + length]
        if len(chunk) < length:  # not written to its end yet
            break
        assert zlib.crc32(bytes([kind]) + chunk) & 0xFFFFFFFF == checksum
        parts.append(chunk)
        if kind in (1, 4):  # whole, or the last part
            found.append(b"".join(parts))
            parts = []
        at += HEADER + length
    return found
