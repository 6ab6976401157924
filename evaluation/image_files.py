"""Reads a folder of images from any source: lists the images, names broken files, and brings all to one size by one rule."""

from __future__ import annotations

import io
import os
import reprlib
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

from files import inside, parse_json, printable, read_bytes
from scenes.grammar import SceneSpec

SUFFIXES = frozenset(".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .avif .jp2".split())
LOSSY = frozenset(("JPEG", "MPO", "AVIF", "JPEG2000"))  # WebP is either; only its own header tells
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")  # none runs other programs
MAX_PIXELS = 80_000_000  # below Pillow's own alarm, and checked before anything is decoded
MAX_PASSES = 2_000_000_000  # pixels times scans of a progressive JPEG: a short file can ask for thousands of scans
MAX_BYTES = 2**29  # of an image file
MAX_PROMPTS_BYTES = 2**28
MAX_LABEL = 2**31
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


def read_folder(
    path: str | Path, what: str, max_broken: float, allow_lossy: bool = True, allow_outside: bool = False
) -> Folder:
    """Reads every image of a folder, not of the folders in it.

    Args:
        what: the option that named it, for messages.
        max_broken: largest share of files that may be unreadable; they are left out and named.
        allow_lossy: False refuses JPEG and its like: compression alone moves the distances.
        allow_outside: False leaves out links that lead out of the folder: a folder from somebody else could so put any
            picture of this machine on the page.
    Raises:
        FileNotFoundError: no such folder, or no image in it; ValueError: too many unreadable or any lossy files, or
            more than fits into half of this machine's memory.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{what}={path}: no such folder")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        deeper = next((p.name for p in sorted(path.iterdir()) if p.is_dir()), None)
        hint = f"; it holds folders, such as {what}={path / deeper}" if deeper else ""
        raise FileNotFoundError(f"{what}={path}: no images in it (.png, .jpg, .webp, …){hint}")
    folder = Folder(path, [file.name for file in files])
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for number, file in enumerate(files):
        try:
            if file.is_symlink() and not allow_outside and not inside(file, path):
                raise ValueError("a link out of the folder; allow_outside=true takes it")
            image, lossy = decode(file)
        except Exception as error:  # a damaged file can make a decoder raise anything
            folder.broken[file.name] = _reason(error, file)
            continue
        room -= image.nbytes
        if room < 0:
            raise ValueError(f"{what}={path}: the first {number + 1} of {len(files)} images fill half of the memory here")
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
    return ", ".join(map(printable, shown)) + (f" and {len(names) - count} more" if len(names) > count else "")


def decode(path: Path) -> tuple[np.ndarray, bool]:
    """An image file as uint8 (H, W, C), upright, with 1 or 3 channels, and whether its format loses detail.

    16 bits are scaled to 8, transparency is laid on white.
    """
    content = read_bytes(path, MAX_BYTES)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        pixels = image.width * image.height
        passes = content.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
        if pixels > MAX_PIXELS or passes * pixels > MAX_PASSES:
            raise ValueError(f"{image.width} x {image.height} pixels" + f" in {passes} scans" * (passes > 1) + " are too many")
        lossy = image.format in LOSSY or image.format == "WEBP" and b"VP8 " in content[12:64]
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


def _reason(error: Exception, file: Path) -> str:
    text = str(error).removeprefix(str(file)).lstrip(": ") or type(error).__name__
    return "not an image" if "cannot identify" in text else text.splitlines()[0][:200].removeprefix("is ")


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
    """Reads a file of captions: for each image a dict with `caption`, `spec` or `label`, empty where it has no line.

    Args:
        path: text with a caption per line, in the order of the files' names (an empty line is no caption); or .jsonl
            with an object per line, which names its `file`, or goes by its line where it does not.
        names: all files of the folder in order, unreadable ones included.
    Raises:
        FileNotFoundError: no such file; ValueError: it holds nothing, a line is no JSON, or it names a missing file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"prompts={path}: no such file")
    try:
        lines = read_bytes(path, MAX_PROMPTS_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"prompts={path}: the file is not written in UTF-8 (byte {error.start:,})") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"prompts={path}: the file holds no caption")
    found: list[dict[str, Any]] = [{} for _ in range(max(len(names), len(lines)))]
    places = {name: i for i, name in enumerate(names)}
    named: set[str] = set()
    for number, line in enumerate(lines):
        if path.suffix != ".jsonl":
            found[number] = {"caption": plain(line)} if line.strip() else {}
            continue
        if not line.strip():
            continue
        where = f"prompts={path}: line {number + 1}"
        entry = _entry(line, where)
        name = entry.get("file")
        if name is not None and (name not in places or name in named):
            raise ValueError(f"{where} names {name!r}, which is " + ("named before" if name in named else "not among the images"))
        if name is not None:
            named.add(name)
        found[number if name is None else places[name]] = entry
    return found


def plain(text: str) -> str:
    """A caption on one line, without control characters and halves of surrogate pairs, which no page can show."""
    text = "".join(c for c in text if c.isprintable() or c.isspace())
    return " ".join(text.split())


def _entry(line: str, where: str) -> dict[str, Any]:
    """An object that says `file`, `caption`, `label` or `spec` of an image, each of its kind or null."""
    entry = parse_json(line, where)
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is no JSON object but {reprlib.repr(entry)}")
    for key, kind in (("file", str), ("caption", str), ("label", int), ("spec", dict)):
        value = entry.get(key)
        if value is not None and (type(value) is not kind or kind is int and not 0 <= value < MAX_LABEL):
            right = {str: "text", int: f"a whole number below {MAX_LABEL:,}", dict: "an object"}[kind]
            raise ValueError(f"{where}: {key} should be {right}, not {reprlib.repr(value)}")
    if entry.get("spec") is not None:
        try:
            SceneSpec.from_dict(entry["spec"])
        except (ValueError, TypeError, KeyError) as error:
            why = f"the key {error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{where}: spec is no scene: {str(why)[:200]}") from None
    if entry.get("caption") is not None:
        entry["caption"] = plain(entry["caption"])
    return entry
