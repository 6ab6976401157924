"""One finished evaluation as the page sees it: what metrics.json holds, and the folder with its pictures."""

from __future__ import annotations

import os
import reprlib
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from evaluation.report.metrics_json import checked
from files import inside, read_json

SCHEMA = 2
FORMER_NAMES = {f"exact{end}": f"all_correct{end}" for end in ("", "_low", "_high", "_real")}


@dataclass(frozen=True)
class FinishedEvaluation:
    """What metrics.json of one model holds, and the folder it lies in."""

    data: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, place: str | Path) -> FinishedEvaluation:
        """Reads a metrics.json or the folder that holds one.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it was written by another version, or holds what evaluate.py does not write.
        """
        path = Path(place)
        path = path / "metrics.json" if path.is_dir() else path
        if not path.exists():
            raise FileNotFoundError(f"no evaluation in {place}: there is no {path.name}; run evaluate.py out={place}")
        data = read_json(path)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            schema = reprlib.repr(data.get("schema")) if isinstance(data, dict) else "none"
            raise ValueError(f"{path} has schema {schema}, this version reads {SCHEMA}: evaluate again")
        return cls(todays_names(checked(data, str(path))), path.parent)

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        return self.data.get("splits") or {}

    def real_folder(self, split: str) -> Path | None:
        """Where the real images of a split lie: what the split says, else the newest `real/<split>-…`."""
        named = self.splits[split].get("real")
        if named:
            return self._within(named)
        found = sorted(self.folder.glob(f"real/{escape(split)}-*"), key=lambda folder: folder.stat().st_mtime)
        return found[-1] if found else None

    def sample(self, split: str, index: int) -> Path | None:
        """The PNG of one generated image, or None when it is not there."""
        folder = self.splits[split].get("samples")
        return self._picture(self._within(folder), index) if folder else None

    def real(self, split: str, index: int) -> Path | None:
        """The PNG of the data's own image for the same prompt, or None when it is not there."""
        return self._picture(self.real_folder(split), index)

    def _within(self, place: str) -> Path | None:
        """A place that metrics.json names, None where it lies outside its folder: nothing is read there."""
        return self.folder / place if "\0" not in place and inside(self.folder / place, self.folder) else None

    def _picture(self, folder: Path | None, index: int) -> Path | None:
        path = picture(folder, index) if folder is not None else None
        return path if path is not None and inside(path, self.folder) else None


def todays_names(found: Any) -> Any:
    """What metrics.json holds, where the metric `exact` of earlier evaluations has its name of today."""
    if isinstance(found, dict):
        return {FORMER_NAMES.get(key, key): todays_names(value) for key, value in found.items()}
    return [todays_names(value) for value in found] if isinstance(found, list) else found


def picture(folder: Path, index: int) -> Path | None:
    """The picture of an index in a folder, whatever the number of leading zeros."""
    for digits in (6, 5):
        path = folder / f"{index:0{digits}d}.png"
        if os.path.isfile(path):  # False also for a name that is too long
            return path
    return None
