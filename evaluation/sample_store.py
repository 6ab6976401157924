"""Keeps generated images on disk, so that measuring again does not draw them again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import files
from evaluation.metrics.card import digest
from evaluation.metrics.prompt_set import pixels_digest

SHOWN = 24  # real images written beside the samples, for the page


class TimedBatch(NamedTuple):
    """Seconds that sampling some images together took; `warm` is False for the first of a process."""

    images: int
    sec: float
    warm: bool


class SampleStore:
    """PNGs of one sampling protocol, in `root/<label>-<digest of the protocol>/`.

    What an image looks like depends on its prompt and its own seed, so the count is no part of the protocol: a larger
    n keeps the images there are and adds to them. Several processes may write different images of one store.

    Args:
        root: folder of all stores.
        label: readable start of the folder's name, for instance the split.
        protocol: plain nested value that fixes every image: weights, sampler, steps, guidance, prompts, seeds.
        rank: of the process; each keeps its own times.
    """

    def __init__(self, root: str | Path, label: str, protocol: dict[str, Any], rank: int = 0) -> None:
        self.folder, self.rank = Path(root) / f"{label}-{digest(protocol)}", rank
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            files.write_text(self.folder / "protocol.json", json.dumps(protocol, indent=1, sort_keys=True))

    def path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.png"

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Which of these images have yet to be sampled."""
        return [index for index in indices if not self.path(index).is_file()]

    def write(self, indices: Sequence[int], image_u8: Tensor, sec: float, warm: bool = True) -> None:
        """Saves uint8 images (B, C, H, W) under their indices, and the seconds that sampling them took.

        `warm` is False for a process's first batch, which loads encoders and kernels.
        """
        for index, image in zip(indices, image_u8):
            write_png(self.path(index), image)
        path = self.folder / f"timing-{self.rank}.json"
        files.write_json(path, [*map(list, _batches(path)), [len(indices), sec, warm]])

    def read(self, indices: Sequence[int]) -> Tensor:
        """The images as uint8 (B, C, H, W)."""
        return read_pngs([self.path(index) for index in indices])

    def timing(self) -> list[TimedBatch]:
        """The times of all batches that any process has sampled here."""
        return [batch for path in sorted(self.folder.glob("timing-*.json")) for batch in _batches(path)]

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Saves a small fact about this sampling, such as its cost."""
        files.write_json(self.folder / f"{name}.json", value)

    def kept(self, name: str) -> dict[str, Any] | None:
        path = self.folder / f"{name}.json"
        return files.read_json(path) if path.exists() else None


def _batches(path: Path) -> list[TimedBatch]:
    """The batches of a file of times; none where there is no such file. Raises: ValueError for another file."""
    known = files.read_json(path) if path.exists() else []
    try:
        found = [TimedBatch(int(images), float(sec), bool(warm)) for images, sec, warm in known]
        if any(batch.images < 1 or not batch.sec >= 0 for batch in found):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{path} holds no times of batches: delete it") from None
    return found


def sec_per_image(timing: Sequence[TimedBatch]) -> tuple[float | None, float | None]:
    """Median and minimum over batches of the seconds an image took.

    Batches that are not warm, or partial, count only where there are no others.
    """
    timing = [batch for batch in timing if batch.warm] or timing
    full = max((batch.images for batch in timing), default=0)
    each = [batch.sec / batch.images for batch in timing if batch.images == full]
    return (statistics.median(each), min(each)) if each else (None, None)


def save_shown(root: Path, label: str, images_u8: Tensor, count: int = SHOWN) -> Path:
    """Writes the first images (B, C, H, W) of a set as PNGs into `root/<label>-<hash of them>/` and returns it."""
    folder = root / f"{label}-{pixels_digest(images_u8[:count])}"
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images_u8[:count]):
        if not (path := folder / f"{index:05d}.png").is_file():
            write_png(path, image)
    return folder


def read_pngs(paths: Sequence[Path]) -> Tensor:
    """Grey or colour PNGs of one size as uint8 (B, C, H, W)."""
    arrays = [np.asarray(Image.open(path, formats=("PNG",))) for path in paths]
    batch = torch.from_numpy(np.stack([a[..., None] if a.ndim == 2 else a for a in arrays]))
    return batch.permute(0, 3, 1, 2).contiguous()


def write_png(path: Path, image_u8: Tensor) -> None:
    """Saves one uint8 image (C, H, W), whole or not at all."""
    array = image_u8.permute(1, 2, 0).cpu().contiguous().numpy()  # (H, W, C)
    with files.replacing(path) as fresh:
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(fresh, format="PNG")
