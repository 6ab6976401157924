"""Stacked digits: three digits of MNIST as the colours of one image, a thousand modes that a classifier can count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datamodules.base import BatchedDataset, ImageDataModule
from datamodules.class_files import FORMATS
from datamodules.classes import ClassDataModule, ClassesDataset
from datamodules.keyed import keyed_bits
from datamodules.sampler import Key

STACKED = 3  # colours, and digits in an image


class StackedDataset(BatchedDataset):
    """`dataset[(index, sample_seed)]`: the sample seed draws the three digits, the index only counts.

    First the classes are drawn, each as likely as the others, then a digit of each class: all modes are equally
    frequent, also where the digits are not. An item holds `image` float32 (3, S, S) in [-1, 1], `label`, the number that
    the three digits spell, and `seed`; `__getitems__` gives the same for a list of keys as one batch dict.

    Args:
        digits: grey images of C classes; classes that it has no image of are left out.
        num_images: in one pass.
    """

    def __init__(self, digits: ClassesDataset, num_images: int) -> None:
        self.digits, self.num_images = digits, num_images
        labels = digits.labels[digits.rows].numpy()
        self.order = np.argsort(labels, kind="stable")  # class by class
        _, self.starts, counts = np.unique(labels[self.order], return_index=True, return_counts=True)
        self.counts = counts.astype(np.uint64)
        self.num_classes = len(digits.captions)

    def __len__(self) -> int:
        return self.num_images

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        seeds = [seed for _, seed in keys]
        bits = keyed_bits(np.array(seeds, dtype=np.uint64), "stack", 2 * STACKED)
        which = (bits[:, :STACKED] % np.uint64(len(self.counts))).astype(np.int64)  # (B, 3)
        nth = (bits[:, STACKED:] % self.counts[which]).astype(np.int64)
        rows = self.order[self.starts[which] + nth]
        drawn = self.digits.__getitems__([(row, 0) for row in rows.ravel().tolist()])
        places = self.num_classes ** torch.arange(STACKED).flip(0)  # 100, 10, 1
        return {
            "image": drawn["image"].unflatten(0, (len(keys), STACKED)).squeeze(2),  # (B, 3, S, S)
            "label": (drawn["label"].view(-1, STACKED) * places).sum(1),
            "seed": torch.tensor(seeds, dtype=torch.int64),
        }


class StackedDataModule(ImageDataModule):
    """Stacks of three digits, drawn anew at every pass; validation and test have digits of their own.

    Args:
        name: mnist, or fashion_mnist for stacks of garments.
        root: folder of its files, and whereto they are downloaded.
        image_size: None is 28.
        channels, num_classes: 3 and 1000, written in conf for models to refer to; others are refused.
        num_val: training digits held out for validation.
        data_seed: chooses them.
        num_images: stacks in one pass.
        num_val_images, num_test_images: stacks of validation and of test.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for files in `setup`.
    Source: Metz et al. 2017 (unrolled GANs), section 3.3.1; Lin et al. 2018 (PacGAN), section 4
    """

    def __init__(
        self,
        name: str,
        root: str,
        image_size: int | None = None,
        channels: int = STACKED,
        num_classes: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        num_val: int = 5000,
        data_seed: int = 0,
        num_images: int = 50_000,
        num_val_images: int = 5000,
        num_test_images: int = 26_000,
    ) -> None:
        self.digits = ClassDataModule(name, root, image_size, batch_size=batch_size, num_val=num_val, data_seed=data_seed)
        if self.digits.channels != 1:
            grey = ", ".join(other for other, form in FORMATS.items() if form.channels == 1 and not form.packaged)
            raise ValueError(f"data.name={name}: its images have colours, and grey ones are stacked: {grey}")
        modes = self.digits.num_classes**STACKED
        if (channels, num_classes) not in ((STACKED, None), (STACKED, modes)):
            raise ValueError(f"data.channels={channels}, num_classes={num_classes}: stacks have {STACKED} and {modes}")
        for key, value in (("images", num_images), ("val_images", num_val_images), ("test_images", num_test_images)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"data.num_{key} must be a whole number of at least 1, got {value!r}")
        super().__init__(
            image_size=self.digits.image_size, batch_size=batch_size, channels=channels, num_classes=modes,
            num_workers=num_workers,
        )  # fmt: skip
        self.num_images, self.num_val_images, self.num_test_images = num_images, num_val_images, num_test_images

    def prepare_data(self) -> None:
        """One process downloads; the others then find the files."""
        self.digits.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self.digits.setup(stage)
        self.train_dataset = StackedDataset(self.digits.train_dataset, self.num_images)
        self.val_dataset = StackedDataset(self.digits.val_dataset, self.num_val_images)
        self.test_dataset = StackedDataset(self.digits.test_dataset, self.num_test_images)

    def fingerprint(self) -> str:
        """Digest of the digits and of the stacks in a pass."""
        facts = (self.digits.fingerprint(), self.num_images)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
