"""Images on the page: as they are up to a size, reduced above it, each with its text for those who cannot see it."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from html import escape
from pathlib import Path

from PIL import Image

LARGEST = 128  # pixels of the longer side that go onto the page
CELL = 128  # about as wide as an image is shown; smaller ones are enlarged by whole factors


@lru_cache(maxsize=4096)
def load(path: Path) -> tuple[str, int, int]:
    """Data address, width and height of an image, reduced where it is larger than LARGEST."""
    return encode(path.read_bytes())


def encode(content: bytes) -> tuple[str, int, int]:
    """The same for the bytes of an image file; a PNG that is small enough stays as it is."""
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
        if max(width, height) > LARGEST or picture.format != "PNG":
            picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
            picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
            width, height = picture.size
            buffer = io.BytesIO()
            picture.save(buffer, format="PNG", optimize=True)
            content = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(content).decode(), width, height


def image(path: Path | None, alt: str) -> str:
    """An `img`, or a place of the same size that says there is none."""
    if path is None:
        return '<span class="nothing">no image</span>'
    return tag(*load(path), alt)


def tag(address: str, width: int, height: int, alt: str) -> str:
    """An `img` enlarged to about CELL pixels, by a whole factor where it is smaller."""
    factor = max(1, round(CELL / max(width, height)))
    size = f'width="{width * factor}" height="{height * factor}"'
    return f'<img src="{address}" {size} alt="{escape(alt, quote=True)}">'
