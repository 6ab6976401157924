"""MNIST, Fashion-MNIST and CIFAR: small labelled images, kept in memory as bytes and served by the batch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.augment import augment, check_prob
from datamodules.base import BatchedDataset, ImageDataModule
from datamodules.class_files import FORMATS, load
from datamodules.keyed import bernoulli_u8, keyed_bits
from datamodules.sampler import Key, rank_and_world
from rng.hashing import stable_hash

BINARIZE = ("none", "dynamic", "static", "threshold")
PADDED_SIZE = 32  # drawings on black grow to this size by a margin, and by resizing beyond it


class ClassesDataset(BatchedDataset):
    """`dataset[(index, sample_seed)]`: index fixes the image, sample_seed a flip and dynamic binarisation.

    An item holds `image` float32 (C, S, S) in [-1, 1], `label`, `caption` and `seed`; `__getitems__` gives the same for
    a list of keys as one batch dict, without a loop over images.

    Args:
        image_u8: uint8 (N, C, S, S), shared by the splits.
        labels: int64 (N,).
        rows: int64 (M,), the images of this split.
        captions: one per class.
        binarize: one of BINARIZE; all but `none` give -1 and 1 alone.
        fixed_seed: binarisation is drawn from (fixed_seed, row) instead of the sample seed; None for dynamic.
        augment_prob: of `datamodules.augment`; items then hold `augment` float32 (9,). None leaves it out.
    """

    def __init__(
        self,
        image_u8: Tensor,
        labels: Tensor,
        rows: Tensor,
        captions: Sequence[str],
        *,
        image_size: int,
        channels: int,
        random_flip: bool = False,
        binarize: str = "none",
        fixed_seed: int | None = None,
        augment_prob: float | None = None,
    ) -> None:
        self.image_u8, self.labels, self.rows, self.captions = image_u8, labels, rows, tuple(captions)
        self.image_size, self.channels, self.random_flip = image_size, channels, random_flip
        self.binarize, self.fixed_seed, self.augment_prob = binarize, fixed_seed, augment_prob

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        indices, seeds = zip(*keys)
        rows = self.rows[torch.tensor(indices)]
        labels, seed_bits = self.labels[rows], np.array(seeds, dtype=np.uint64)
        image = to_size(self.image_u8[rows], self.image_size)
        image = self._binarized(image, rows, seed_bits)
        if self.random_flip:
            flipped = torch.from_numpy((keyed_bits(seed_bits, "flip")[:, 0] & np.uint64(1)).astype(bool))
            image = torch.where(flipped[:, None, None, None], image.flip(-1), image)
        image = (image.float() / 127.5 - 1).expand(-1, self.channels, -1, -1)
        extra = {}
        if self.augment_prob is not None:
            image, extra["augment"] = augment(image, seeds, self.augment_prob)
        return {
            "image": image.contiguous(),  # (B, C, S, S)
            "label": labels,
            "caption": [self.captions[label] for label in labels.tolist()],
            "seed": torch.tensor(seeds, dtype=torch.int64),
            **extra,
        }

    def _binarized(self, image_u8: Tensor, rows: Tensor, seeds: np.ndarray) -> Tensor:
        if self.binarize == "none":
            return image_u8
        if self.binarize == "threshold":
            return (image_u8 > 127).to(torch.uint8) * 255
        if self.fixed_seed is not None:
            seeds = rows.numpy().astype(np.uint64) ^ np.uint64(self.fixed_seed)
        return torch.from_numpy(bernoulli_u8(image_u8.numpy(), seeds, "binarize"))


class ClassDataModule(ImageDataModule):
    """Official train and test images of a small labelled data set; validation is cut from train.

    Args:
        name: garments, which comes with this repository, mnist, fashion_mnist, cifar10 or cifar100.
        root: folder looked into first, and downloaded to; None for garments.
        image_size: None is the data's own, 28 or 32.
        channels: None is the data's own; 3 repeats the grey value of digits and garments.
        num_classes: of the data, written in conf for models to refer to; another number is refused.
        num_val: training images held out for validation.
        data_seed: chooses them, and fixes binarisation where it is fixed.
        random_flip: mirror half of the training images.
        binarize: none; dynamic (a grey value is the probability of white, drawn anew at every pass, but once and for
            all in validation and test); static (drawn once for training too); threshold (white above 127).
        augment_prob: of each kind of augmentation in training, see datamodules.augment; 0 is off, EDM takes 0.12.
        caption_template: caption with {} for the class's name; "a {}" becomes "an {}" before a vowel.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for files in `setup`.
    Source: Burda et al. 2016, section 5 (dynamic binarisation); Salakhutdinov and Murray 2008 (static)
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        num_classes: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        num_val: int = 5000,
        data_seed: int = 0,
        random_flip: bool = False,
        binarize: str = "none",
        augment_prob: float = 0.0,
        caption_template: str = "a photo of a {}",
    ) -> None:
        if name not in FORMATS:
            raise ValueError(f"data.name={name!r}: choose one of {', '.join(FORMATS)}")
        form = FORMATS[name]
        if (root is None) != form.packaged:
            raise ValueError(f"data.root={root or 'null'}: " + ("garments come with this repository and take no folder (data.root=null); data=fashion_mnist does"
                             if form.packaged else f"say where {name} lies or shall be downloaded to"))  # fmt: skip
        channels = form.channels if channels is None else channels
        super().__init__(
            image_size=form.side if image_size is None else image_size,
            batch_size=batch_size,
            channels=channels,
            num_classes=form.num_classes,
            captioned=True,
            num_workers=num_workers,
        )
        if channels not in (form.channels, 3):
            raise ValueError(f"data.channels={channels}: {name} has {form.channels}" + " or 3" * (form.channels == 1))
        if num_classes not in (None, form.num_classes):
            raise ValueError(f"data.num_classes={num_classes}: {name} has {form.num_classes}")
        if binarize not in BINARIZE:
            raise ValueError(f"data.binarize={binarize!r}: choose one of {', '.join(BINARIZE)}")
        if binarize != "none" and form.channels == 3:
            raise ValueError(f"data.binarize={binarize}: grey values are read as probabilities, and {name} has "
                             "colours: set data.binarize=none and, for model=vae, another likelihood")
        check_prob(augment_prob)
        if augment_prob and binarize != "none":
            raise ValueError(f"data.augment_prob={augment_prob} makes grey values, and data.binarize={binarize} black and "
                             "white alone: drop one")
        if "{}" not in caption_template:
            raise ValueError(f"data.caption_template {caption_template!r} has no {{}} for the class's name")
        if not isinstance(num_val, int) or num_val < 1:
            raise ValueError(f"data.num_val must be a whole number of at least 1, got {num_val!r}")
        self.name, self.num_val, self.data_seed = name, num_val, data_seed
        self.root = None if root is None else Path(root).expanduser()
        self.random_flip, self.binarize, self.caption_template = random_flip, binarize, caption_template
        self.augment_prob = augment_prob
        self.class_names: tuple[str, ...] = ()
        self._digest = ""

    def prepare_data(self) -> None:
        """One process downloads; the others then find the files."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        if self.train_dataset is not None:
            return
        (train_images, train_labels), (test_images, test_labels), self.class_names = load(self.name, self.root)
        if self.num_val >= len(train_images):
            raise ValueError(f"data.num_val={self.num_val} leaves nothing of {len(train_images):,} training images")
        captions = [caption(self.caption_template, name) for name in self.class_names]
        train, val = cut(len(train_images), self.num_val, self.data_seed)
        common = {"image_size": self.image_size, "channels": self.channels, "binarize": self.binarize}
        held_out = {**common, "augment_prob": 0.0 if self.augment_prob else None}
        own = torch.from_numpy(train_images.copy()), torch.from_numpy(train_labels)
        other = torch.from_numpy(test_images.copy()), torch.from_numpy(test_labels)
        fixed = {part: stable_hash("binarize", part, self.data_seed) for part in ("train", "test")}
        self.train_dataset = ClassesDataset(
            *own, train, captions, random_flip=self.random_flip,
            fixed_seed=fixed["train"] if self.binarize == "static" else None,
            augment_prob=self.augment_prob or None, **common,
        )  # fmt: skip
        self.val_dataset = ClassesDataset(*own, val, captions, fixed_seed=fixed["train"], **held_out)
        every = torch.arange(len(test_images))
        self.test_dataset = ClassesDataset(*other, every, captions, fixed_seed=fixed["test"], **held_out)
        self._digest = digest(train_images, train_labels, test_images, test_labels)
        if rank_and_world()[0] == 0:
            parts = f"{len(train):,} images to train, {len(val):,} to validate, {len(every):,} to test"
            print(f"{self.name}: {parts}", flush=True)

    def fingerprint(self) -> str:
        """Digest of all images and labels, and of the arguments that change what is served."""
        self.setup()
        facts = (
            self._digest, self.image_size, self.channels, self.num_val, self.data_seed,
            self.random_flip, self.binarize, self.caption_template,
        )  # fmt: skip
        if self.augment_prob:  # so that the digests of runs without it stay what they were
            facts += (self.augment_prob,)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def to_size(image_u8: Tensor, size: int) -> Tensor:
    """Square uint8 images (B, C, S, S) at another size: a black margin for drawings up to 32 pixels, else resized.

    Resizing is bicubic with antialiasing. A margin keeps every stroke as it was drawn.
    """
    side = image_u8.shape[-1]
    if side == size:
        return image_u8
    if image_u8.shape[1] == 1 and side < size <= PADDED_SIZE:
        before = (size - side) // 2
        after = size - side - before
        return F.pad(image_u8, (before, after, before, after))
    return F.interpolate(image_u8, size=(size, size), mode="bicubic", antialias=True)


def cut(num_images: int, num_val: int, seed: int) -> tuple[Tensor, Tensor]:
    """(train, val) rows, each ascending: the `num_val` rows of smallest hash are held out."""
    bits = keyed_bits(np.arange(num_images, dtype=np.uint64), f"validation {seed}")[:, 0]
    order = np.argsort(bits, kind="stable")
    val, train = np.sort(order[:num_val]), np.sort(order[num_val:])
    return torch.from_numpy(train), torch.from_numpy(val)


def caption(template: str, name: str) -> str:
    """The template with a class's name in it, and the right article before a vowel."""
    if name[:1].lower() in "aeiou":
        template = re.sub(r"\b([Aa]) \{\}", r"\1n {}", template)
    return template.replace("{}", name)


def digest(*arrays: np.ndarray) -> str:
    """Hex digest of arrays' bytes and shapes."""
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        total.update(repr((array.shape, array.dtype.str)).encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
