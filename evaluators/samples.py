"""Generated images on disk, so that measuring again does not sample again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def digest(protocol: Any) -> str:
    """Twelve hex digits of a plain nested value; the same for equal values on every machine."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class SampleStore:
    """PNGs of one sampling protocol, in `root/<label>-<digest of the protocol>/`.

    What an image looks like depends on its prompt and its own seed, so the count is no part of the protocol: a larger
    n keeps the images there are and adds to them.

    Args:
        root: folder of all stores.
        label: readable start of the folder's name, for instance the split.
        protocol: plain nested value that fixes every image: weights, sampler, steps, guidance, prompts, seeds.
    """

    def __init__(self, root: str | Path, label: str, protocol: dict[str, Any]) -> None:
        self.folder = Path(root) / f"{label}-{digest(protocol)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "protocol.json", json.dumps(protocol, indent=1, sort_keys=True).encode())
        timing = self.folder / "timing.json"
        self._timing = json.loads(timing.read_text()) if timing.is_file() else {"images": 0, "sec": 0.0}

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.png"

    def missing(self, n: int) -> list[int]:
        """Which of the first n images have yet to be sampled."""
        return [index for index in range(n) if not self.path(index).is_file()]

    def write(self, indices: Sequence[int], image_u8: Tensor, sec: float) -> None:
        """Saves uint8 images (B, C, H, W) under their indices, and the seconds that sampling them took."""
        for index, image in zip(indices, image_u8):
            array = image.permute(1, 2, 0).cpu().numpy()  # (H, W, C)
            _write_png(self.path(index), array[..., 0] if array.shape[2] == 1 else array)
        self._timing["images"] += len(indices)
        self._timing["sec"] += sec
        _write(self.folder / "timing.json", json.dumps(self._timing).encode())

    def read(self, indices: Sequence[int]) -> Tensor:
        """The images as uint8 (B, C, H, W)."""
        arrays = [np.asarray(Image.open(self.path(index))) for index in indices]
        batch = torch.from_numpy(np.stack([a[..., None] if a.ndim == 2 else a for a in arrays]))
        return batch.permute(0, 3, 1, 2).contiguous()

    def sec_per_image(self) -> float | None:
        """Mean seconds of sampling one image, over all that were ever sampled here."""
        return self._timing["sec"] / self._timing["images"] if self._timing["images"] else None


def _write_png(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    Image.fromarray(array).save(temporary, format="PNG")
    os.replace(temporary, path)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
