"""The run's own record: metrics.jsonl, exact across kills, and timing.jsonl for what depends on the clock."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

FILES = ("metrics.jsonl", "timing.jsonl")


class JsonlLogger(Logger):
    """Appends one JSON line per call, `{"step": …, "images": …, …}`; keys named `time/…` go to timing.jsonl.

    A resumed run calls `rewind` first, so that each step is in the file exactly once.
    """

    def __init__(self, dir: str | Path) -> None:
        super().__init__()
        self.dir = Path(dir)
        self._open: dict[str, int] = {}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        clock = {k: v for k, v in metrics.items() if k.startswith("time/")}
        rest = {k: v for k, v in metrics.items() if k not in clock}
        self._append(FILES[0], {"step": step, **rest})
        if clock:
            self._append(FILES[1], {"step": step, **clock})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        if name not in self._open:
            self._open[name] = os.open(self.dir / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._open[name], (json.dumps(line) + "\n").encode())

    def save(self) -> None:
        for file in self._open.values():
            os.fsync(file)

    def rewind(self, step: int) -> None:
        """Drops lines after `step` and a torn last line."""
        self.close()
        for path in (self.dir / name for name in FILES):
            if path.exists():
                lines = [text for text, line in _lines(path) if line["step"] <= step]
                fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
                fresh.write_text("".join(lines))
                os.replace(fresh, path)

    def close(self) -> None:
        for file in self._open.values():
            os.close(file)
        self._open = {}

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


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            if text.endswith("\n"):
                found.append((text, json.loads(text)))
        except json.JSONDecodeError:
            continue
    return found


def last_values(dir: Path) -> dict[str, Any]:
    """The newest value of every metric of a run."""
    values: dict[str, Any] = {}
    for path in (dir / name for name in FILES):
        for _, line in _lines(path) if path.exists() else ():
            values |= line
    return values
