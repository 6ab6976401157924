"""Mixtures of two-dimensional Gaussians as images of one pixel and two channels: their modes can be counted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.base import BatchedDataset, ImageDataModule
from datamodules.keyed import keyed_bits
from datamodules.sampler import Key

DIMENSIONS = 2
TAIL = 4  # standard deviations between a mode and the border of [-1, 1]: one point in 3,000 lies farther out


class PointsDataset(BatchedDataset):
    """`dataset[(index, sample_seed)]`: index fixes the mode, sample_seed where around it the point lies.

    An item holds `image` float32 (2, 1, 1), `label`, the number of its mode, and `seed`; `__getitems__` gives the same
    for a list of keys as one batch dict, without a loop over points.

    Args:
        centres: float64 (K, 2), the modes.
        std: of every mode, in both directions.
        num_images: points in one pass; point i belongs to mode i % K.
    """

    def __init__(self, centres: np.ndarray, std: float, num_images: int) -> None:
        self.centres, self.std, self.num_images = centres, std, num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        indices, seeds = zip(*keys)
        label = np.array(indices) % len(self.centres)
        point = self.centres[label] + self.std * normal(np.array(seeds, dtype=np.uint64))
        return {
            "image": torch.from_numpy(point.astype(np.float32))[:, :, None, None],  # (B, 2, 1, 1)
            "label": torch.from_numpy(label),
            "seed": torch.tensor(seeds, dtype=torch.int64),
        }


class PointsDataModule(ImageDataModule):
    """Points of K equally frequent Gaussians in [-1, 1]²; every pass draws each of them anew, validation stays.

    Args:
        centres: K pairs of coordinates.
        std: standard deviation of every mode in each direction.
        image_size, channels, num_classes: 1, 2 and K, written in conf for models to refer to; others are refused.
        num_images: points in one pass.
        num_val: points of validation and of test.
    Raises: ValueError for modes that do not lie in [-1, 1]², or a number out of range.
    Source: Metz et al. 2017 (unrolled GANs), section 3.1 (ring); Dumoulin et al. 2017, section 4.4 (grid)
    """

    def __init__(
        self,
        centres: Sequence[Sequence[float]],
        std: float,
        image_size: int = 1,
        channels: int = DIMENSIONS,
        num_classes: int | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        num_images: int = 50_000,
        num_val: int = 2000,
    ) -> None:
        table = np.array(centres, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != DIMENSIONS or not len(table):
            raise ValueError(f"data.centres has the shape {table.shape}: give a list of pairs [x, y]")
        if not 0 < std < 1 or np.abs(table).max() + TAIL * std > 1:
            farthest = np.abs(table).max()
            what = f"data.std={std} around centres as far out as {farthest:g}"
            raise ValueError(f"{what}: give a number above 0 with {TAIL} of it within [-1, 1]")
        super().__init__(
            image_size=image_size, batch_size=batch_size, channels=channels,
            num_classes=len(table) if num_classes is None else num_classes, num_workers=num_workers,
        )  # fmt: skip
        if (self.image_size, self.channels, self.num_classes) != (1, DIMENSIONS, len(table)):
            got = f"image_size={image_size}, channels={channels}, num_classes={num_classes}"
            raise ValueError(f"data.{got}: points of {len(table)} modes have 1, {DIMENSIONS} and {len(table)}")
        if num_images < 1 or num_val < 1:
            raise ValueError(f"data.num_images and data.num_val must be at least 1, got {num_images} and {num_val}")
        self.centres, self.std, self.num_images, self.num_val = table, std, num_images, num_val

    def setup(self, stage: str | None = None) -> None:
        self.train_dataset = PointsDataset(self.centres, self.std, self.num_images)
        # Points of validation and test differ by their seeds, which the loader takes from the split's name.
        self.val_dataset = PointsDataset(self.centres, self.std, self.num_val)
        self.test_dataset = PointsDataset(self.centres, self.std, self.num_val)

    def fingerprint(self) -> str:
        """Digest of the modes and of the points in a pass."""
        facts = (self.centres.tolist(), self.std, self.num_images)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def normal(seeds: np.ndarray) -> np.ndarray:
    """Standard normal float64 (B, 2), row i drawn from seeds[i], uint64 (B,).

    Source: Box and Muller 1958
    """
    unit = (keyed_bits(seeds, "point", DIMENSIONS) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1)
    radius, angle = np.sqrt(-2 * np.log1p(-unit[:, 0])), 2 * np.pi * unit[:, 1]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
