"""One finished evaluation as the page sees it: what metrics.json holds, and the folder with its pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 2


@dataclass(frozen=True)
class Result:
    """What metrics.json of one model holds, and the folder it lies in."""

    data: dict[str, Any]
    folder: Path

    @classmethod
    def load(cls, place: str | Path) -> Result:
        """Reads a metrics.json or the folder that holds one.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it was written by another version.
        """
        path = Path(place)
        path = path / "metrics.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no evaluation in {place}: there is no {path.name}; run evaluate.py out={place}")
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {data.get('schema')}, this version reads {SCHEMA}: evaluate again")
        return cls(data, path.parent)

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
            return self.folder / named
        found = sorted(self.folder.glob(f"real/{split}-*"), key=lambda folder: folder.stat().st_mtime)
        return found[-1] if found else None

    def sample(self, split: str, index: int) -> Path | None:
        """The PNG of one generated image, or None when it is not there."""
        folder = self.splits[split].get("samples")
        return picture(self.folder / folder, index) if folder else None

    def real(self, split: str, index: int) -> Path | None:
        """The PNG of the data's own image for the same prompt, or None when it is not there."""
        folder = self.real_folder(split)
        return picture(folder, index) if folder else None


def picture(folder: Path, index: int) -> Path | None:
    """The picture of an index in a folder, whatever the number of leading zeros."""
    for digits in (6, 5):
        path = folder / f"{index:0{digits}d}.png"
        if path.is_file():
            return path
    return None
