"""Images on the page: as they are up to a size, reduced above it, each with its text for those who cannot see it."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from files import read_bytes

FORMATS = ("PNG", "JPEG", "WEBP")  # none runs other programs
MAX_BYTES = 2**26  # of a file
MAX_PIXELS = 2**25
MAX_KEPT = 2**17  # bytes of a file that is taken as it is
LARGEST = 128  # pixels of the longer side that go onto the page
CELL = 128  # about as wide as an image is shown; smaller ones are enlarged by whole factors


class Picture(NamedTuple):
    """A picture as it goes onto the page, and whether it is smaller than its file."""

    address: str
    width: int
    height: int
    reduced: bool


@lru_cache(maxsize=4096)
def load(path: Path) -> Picture | None:
    """An image file, reduced where it is larger than LARGEST; None where it is no picture or too large a one."""
    try:
        return encode(read_bytes(path, MAX_BYTES))
    except (ValueError, FileNotFoundError):
        return None


def encode(content: bytes) -> Picture | None:
    """The same for the bytes of an image file; a PNG that is small enough stays as it is."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                return None
            reduced = max(width, height) > LARGEST
            picture.load()
            if reduced or picture.format != "PNG" or len(content) > MAX_KEPT:
                picture = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
                picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
                width, height = picture.size
                buffer = io.BytesIO()
                picture.save(buffer, format="PNG", optimize=True)
                content = buffer.getvalue()
    except Exception:  # a damaged file can make a decoder raise anything
        return None
    return Picture("data:image/png;base64," + base64.b64encode(content).decode(), width, height, reduced)


def image(path: Path | None, alt: str) -> str:
    """An `img`, or a place of the same size that says there is none."""
    return shown(load(path) if path is not None else None, alt)


def shown(picture: Picture | None, alt: str) -> str:
    """The same for a picture that was read already."""
    return '<span class="nothing">no image</span>' if picture is None else tag(*picture[:3], alt)


def tag(address: str, width: int, height: int, alt: str) -> str:
    """An `img` enlarged to about CELL pixels, by a whole factor where it is smaller."""
    factor = max(1, round(CELL / max(width, height)))
    size = f'width="{width * factor}" height="{height * factor}"'
    return f'<img src="{address}" {size} alt="{escape(alt, quote=True)}">'
