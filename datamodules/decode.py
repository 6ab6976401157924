"""Image files to square uint8 arrays, and a named reason for every file that cannot be used.

Pillow, not torchvision.io: the latter can take the whole process down on a damaged PNG.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import files
from pictures import on_white

MAX_PIXELS = 80_000_000  # below Pillow's own alarm at 89 million; checked before anything is decoded
MAX_BYTES = 2**29  # of a file: 80 million pixels of 16 bits in three colours, not compressed
MAX_PASSES = 2_000_000_000  # pixels times scans of a progressive JPEG: a short file can ask for thousands of scans
PIXELS_AT_ONCE = 100_000_000  # in all threads together: a pixel takes up to 20 bytes while it is converted
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")  # none runs other programs
EXTENSIONS = frozenset(".jpg .jpeg .jfif .mpo .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .avif .jp2".split())
REASONS = ("missing", "unreadable", "outside_root", "empty", "not_an_image", "truncated", "corrupt", "too_large", "unsupported")
_COLOUR_MODES = frozenset(("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"))
_ALPHA_MODES = frozenset(("LA", "La", "PA", "RGBA", "RGBa"))

# Whatever Pillow would warn about becomes either a picture or a named reason here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BadImage(Exception):
    """A file that cannot be used: `reason` is one of REASONS, `detail` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def load_square(source: str | Path | bytes, size: int, channels: int = 3) -> np.ndarray:
    """Read an image as uint8 (size, size, 3) RGB: upright, shortest side to `size` with antialiasing, centre crop.

    Args:
        source: an image file, or its bytes.
        channels: 1 gives its brightness instead, uint8 (size, size).
    Raises: BadImage.
    """
    def central_square(image: Image.Image) -> np.ndarray:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        # Cropping inside resize keeps a 1 x 1,000,000 strip from being blown up first.
        box = (left, top, left + side, top + side)
        square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(square.convert("L") if channels == 1 else square)

    return _open(source, size, central_square)


def verify(path: str | Path) -> None:
    """Decode a whole image, as cheaply as its format allows. Raises: BadImage."""
    _open(path, 1, lambda image: None)


def _open(source: str | Path | bytes, size: int, use: Callable[[Image.Image], Any]) -> Any:
    """What `use` makes of the upright RGB image, for JPEG reduced by the decoder to not less than twice `size`.

    `use` is called before other threads get the image's room, so it must not hand the image on.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else files.open_regular(source, MAX_BYTES)
    except FileNotFoundError:
        raise BadImage("missing") from None
    except ValueError as error:  # no permission, no file but a folder or a pipe, or a huge one
        raise BadImage("unreadable", str(error).removeprefix(str(source)).lstrip(": ")) from None
    with file:
        if not file.read(1):
            raise BadImage("empty")
        file.seek(0)
        try:
            with Image.open(file, formats=FORMATS) as image:
                num_pixels = image.width * image.height
                if num_pixels > MAX_PIXELS:
                    raise BadImage("too_large", f"{image.width} x {image.height} pixels")
                if image.format in ("JPEG", "MPO") and (scans := _scans(file)) * num_pixels > MAX_PASSES:
                    raise BadImage("too_large", f"{image.width} x {image.height} pixels in {scans:,} scans")
                image.draft(None, (2 * size, 2 * size))
                with _room.of(image.width * image.height):
                    image.load()
                    return use(_to_rgb(_upright(image)))
        except BadImage:
            raise
        except UnidentifiedImageError:
            raise BadImage("not_an_image") from None
        except Image.DecompressionBombError as error:
            raise BadImage("too_large", str(error)) from None
        except Exception as error:  # a damaged file can make a decoder raise anything: struct.error, IndexError, …
            reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
            if isinstance(error, OSError) and error.errno is not None:  # the disk's complaint, not the decoder's
                reason = "unreadable"
            raise BadImage(reason, f"{type(error).__name__}: {error}") from None


class _Room:
    """Lets threads decode as long as their images together have at most `most` pixels; a larger one goes alone."""

    def __init__(self, most: int) -> None:
        self.most, self.used, self._changed = most, 0, threading.Condition()

    @contextmanager
    def of(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self.used or self.used + num_pixels <= self.most)
            self.used += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self.used -= num_pixels
                self._changed.notify_all()


_room = _Room(PIXELS_AT_ONCE)


def _scans(file: BinaryIO) -> int:
    """How often a JPEG begins a scan, by its marker; pictures within the file count too. The file's place is kept."""
    place = file.tell()
    file.seek(0)
    found = file.read().count(b"\xff\xda")
    file.seek(place)
    return found


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block does not spoil a good picture."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # a damaged block can make the parser raise anything
        message = f"an EXIF block could not be read ({type(error).__name__}): such pictures stay as they are stored"
        warnings.warn(message, stacklevel=2)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any supported mode -> RGB: 16 bits scaled to 8, alpha composited on white. Raises: BadImage("unsupported")."""
    if image.mode.startswith("I;16") or image.mode == "I":
        # convert() would clip at 255, which turns most of a 16-bit picture white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadImage("unsupported", f"mode {image.mode} with values outside 0 to 65535")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode not in _COLOUR_MODES | _ALPHA_MODES:
        raise BadImage("unsupported", f"mode {image.mode}")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return on_white(image)
    return image.convert("RGB")
