"""Images of a folder, whoever made them: what is there, what is not an image, and one rule for different sizes."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = frozenset(".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .avif .jp2".split())
LOSSY = frozenset(("JPEG", "MPO", "AVIF", "JPEG2000"))  # WebP is either; only its own header tells
MAX_PIXELS = 80_000_000  # below Pillow's own alarm, and checked before anything is decoded
RULE = "largest centre cut-out of those proportions, by Pillow's bicubic with antialiasing"

# What Pillow would warn about becomes a picture or a named reason here.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass
class Folder:
    """The readable images of a folder in the order of their names, as uint8 (H, W, C) arrays of any size.

    `files` are all names, unreadable ones included; image i is file `numbers[i]`, and line `numbers[i]` of a file of
    captions goes with it.
    """

    path: Path
    files: list[str]
    images: list[np.ndarray] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def grey(self) -> bool:
        return all(image.shape[2] == 1 for image in self.images)

    def size(self) -> tuple[int, int]:
        """The commonest (width, height)."""
        return Counter((image.shape[1], image.shape[0]) for image in self.images).most_common(1)[0][0]

    def tensor(self, indices: Sequence[int], size: tuple[int, int], grey: bool) -> Tensor:
        """Some of the images as uint8 (B, C, H, W) of one size, resized by RULE where they have another."""
        arrays = [resized(self.images[i], size) for i in indices]
        arrays = [a if grey or a.shape[2] == 3 else a.repeat(3, axis=2) for a in arrays]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def read_folder(path: str | Path, what: str, max_broken: float, allow_lossy: bool = True) -> Folder:
    """Reads every image of a folder, not of the folders in it.

    Args:
        what: the option that named it, for messages.
        max_broken: largest share of files that may be unreadable; they are left out and named.
        allow_lossy: False refuses JPEG and its like: compression alone moves the distances.
    Raises:
        FileNotFoundError: no such folder, or no image in it; ValueError: too many unreadable or any lossy files.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{what}={path}: no such folder")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        inside = next((p.name for p in sorted(path.iterdir()) if p.is_dir()), None)
        hint = f"; it holds folders, such as {what}={path / inside}" if inside else ""
        raise FileNotFoundError(f"{what}={path}: no images in it (.png, .jpg, .webp, …){hint}")
    folder = Folder(path, [file.name for file in files])
    for number, file in enumerate(files):
        try:
            image, lossy = decode(file)
        except Exception as error:  # a damaged file can make a decoder raise anything
            folder.broken[file.name] = _reason(error)
            continue
        folder.images.append(image)
        folder.numbers.append(number)
        folder.lossy += [file.name] if lossy else []
    if len(folder.broken) > max_broken * len(files):
        share = f"{len(folder.broken)} of {len(files)} files cannot be read ({some(folder.broken)})"
        raise ValueError(f"{what}={path}: {share}: mend or remove them, or raise max_broken={max_broken}")
    if folder.lossy and not allow_lossy:
        count = f"{len(folder.lossy)} of {len(files)} images are compressed with losses ({some(folder.lossy)})"
        why = "which by itself moves the distances: save PNG, or add allow_lossy=true"
        raise ValueError(f"{what}={path}: {count}, {why}")
    return folder


def some(names: Sequence[str] | dict[str, str], count: int = 3) -> str:
    """The first names, with their reasons where there are any, and how many more there are."""
    shown = [f"{name}: {names[name]}" if isinstance(names, dict) else name for name in list(names)[:count]]
    return ", ".join(shown) + (f" and {len(names) - count} more" if len(names) > count else "")


def decode(path: Path) -> tuple[np.ndarray, bool]:
    """An image file as uint8 (H, W, C), upright, with 1 or 3 channels, and whether its format loses detail.

    16 bits are scaled to 8, transparency is laid on white.
    """
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        lossy = image.format in LOSSY or image.format == "WEBP" and b"VP8 " in path.read_bytes()[12:64]
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            values = np.asarray(image).astype(np.int64)
            return ((values.clip(0, 65535) + 128) // 257).astype(np.uint8)[:, :, None], lossy
        if "A" in image.getbands() or "transparency" in image.info:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        return (array[:, :, None] if array.ndim == 2 else array), lossy


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if "cannot identify" in text else text


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, C) in another (width, height), by RULE; an image that has it already is left alone."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    width, height = size
    scale = min(image.shape[1] / width, image.shape[0] / height)
    w, h = width * scale, height * scale  # of the cut-out that keeps the proportions
    left, top = (image.shape[1] - w) / 2, (image.shape[0] - h) / 2
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    array = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + w, top + h)))
    return array[:, :, None] if array.ndim == 2 else array


def read_prompts(path: str | Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What a file says of each image: a dict with `caption`, `spec` or `label`, empty where it says nothing.

    Args:
        path: text with a caption per line, in the order of the files' names (an empty line is no caption); or .jsonl
            with an object per line, which names its `file`, or goes by its line where it does not.
        names: all files of the folder in order, unreadable ones included.
    Raises:
        FileNotFoundError: no such file; ValueError: it holds nothing, a line is no JSON, or it names a missing file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts={path}: no such file")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not any(line.strip() for line in lines):
        raise ValueError(f"prompts={path}: the file holds no caption")
    found: list[dict[str, Any]] = [{} for _ in range(max(len(names), len(lines)))]
    places = {name: i for i, name in enumerate(names)}
    for number, line in enumerate(lines):
        if path.suffix != ".jsonl":
            found[number] = {"caption": line.strip()} if line.strip() else {}
            continue
        try:
            entry = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"prompts={path}: line {number + 1} is no JSON ({error.msg})") from None
        name = entry.get("file")
        if name is not None and name not in places:
            raise ValueError(f"prompts={path}: line {number + 1} names {name!r}, which is not among the images")
        found[number if name is None else places[name]] = entry
    return found
