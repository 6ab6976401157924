"""Small tar shards for tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image


def picture(number: int, kind: str = "png") -> bytes:
    """A small picture whose red is the number."""
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (number % 256, 40, 90)).save(file, "JPEG" if kind == "jpg" else kind.upper())
    return file.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """Writes a tar of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def samples(numbers: range) -> list[tuple[str, bytes]]:
    """As img2dataset has them: an image, its caption, and facts of both."""
    return [
        part for n in numbers
        for part in ((f"{n:06d}.jpg", picture(n, "jpg")), (f"{n:06d}.json", json.dumps({"caption": "other", "width": 9}).encode()), (f"{n:06d}.txt", f"number {n}".encode()))
    ]  # fmt: skip
