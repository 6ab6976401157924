"""Items of data sets whose pictures are stored as files: one bad picture costs a warning, not the run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.augment import augment
from datamodules.base import channels_first, collate, to_model_range
from datamodules.decode import BadImage, load_square
from datamodules.sampler import Key
from files import printable
from rng.hashing import stable_hash

_MAX_TRIES = 10


class StoredImages(Dataset):
    """`dataset[(index, sample_seed)]`: index fixes the image, sample_seed whether it is mirrored.

    An item holds `image` float32 (C, S, S) in [-1, 1], `seed`, and what `facts` says of it; batches of a loader hold uint8. An image that cannot be
    used is replaced by another sample, chosen by sample_seed; `bad_now` holds the indices of such images.

    Args:
        root: the folder or URL that holds them.
        image_size: side of the square images, in pixels.
        channels: 3, or 1 for the brightness alone.
        random_flip: mirror half of the images.
        keep: hold decoded images in memory, as uint8.
        max_bad: how many images may turn out bad before RuntimeError.
        augment_prob: of `datamodules.augment`; items then hold `augment` float32 (9,). None leaves it out.
    """

    is_bad, are_bad = "has gone bad since it was checked", "have gone bad since they were checked"  # in messages

    def __init__(
        self,
        root: Path | str,
        image_size: int,
        *,
        channels: int = 3,
        random_flip: bool,
        keep: bool,
        max_bad: int,
        augment_prob: float | None = None,
    ) -> None:
        self.root, self.image_size, self.channels = root, image_size, channels
        self.random_flip, self.keep, self.max_bad = random_flip, keep, max_bad
        self.augment_prob = augment_prob
        self.bad_now: set[int] = set()
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def source(self, index: int) -> Any:
        """A sample's image for `load_square`: a path, or bytes. Raises: BadImage."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """Where a sample's image lies, for messages."""
        raise NotImplementedError

    def facts(self, index: int, seed: int) -> dict[str, Any]:
        """What an item says of its image: a caption, a label or nothing. Raises: BadImage."""
        raise NotImplementedError

    def __getitem__(self, key: Key) -> dict[str, Any]:
        image_u8, facts = self._found(key)
        item = {"image": to_model_range(image_u8), **facts}
        if self.augment_prob is not None:
            image, label = augment(item["image"][None], [key[1]], self.augment_prob)
            item |= {"image": image[0], "augment": label[0]}
        return item

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """A whole batch, `image` uint8 (B, C, S, S): a quarter of the bytes on the way to a GPU. What is augmented is float32."""
        if self.augment_prob is not None:
            return collate([self[key] for key in keys])
        found = [self._found(key) for key in keys]
        image_u8 = np.empty((len(keys), self.channels, self.image_size, self.image_size), np.uint8)
        for row, (picture, _) in zip(image_u8, found):
            row[:] = channels_first(picture)
        return {"image": torch.from_numpy(image_u8), **collate([facts for _, facts in found])}

    def _found(self, key: Key) -> tuple[np.ndarray, dict[str, Any]]:
        """A sample's picture, uint8 (S, S, C) or (S, S), mirrored or not, and its facts with its seed."""
        index, seed = key
        for attempt in range(_MAX_TRIES):
            try:
                image_u8, facts = self._image(index), self.facts(index, seed)
                break
            except BadImage as bad:
                self._count(index, bad)
                index = stable_hash("replacement", seed, attempt) % len(self)
        else:
            raise RuntimeError(f"{_MAX_TRIES} images in a row could not be read; is {self.root} still there?")
        if self.random_flip and stable_hash("flip", seed) & 1:
            image_u8 = image_u8[:, ::-1]
        return image_u8, {**facts, "seed": seed}

    def _image(self, index: int) -> np.ndarray:
        image_u8 = self._kept.get(index)
        if image_u8 is None:
            image_u8 = load_square(self.source(index), self.image_size, self.channels)
            if self.keep:
                self._kept[index] = image_u8
        return image_u8

    def _count(self, index: int, bad: BadImage) -> None:
        if index in self.bad_now:
            return
        self.bad_now.add(index)
        place = printable(self.place(index))
        warnings.warn(f"{place} {self.is_bad} ({bad}); another sample takes its place", stacklevel=2)
        if len(self.bad_now) > self.max_bad:
            raise RuntimeError(
                f"{len(self.bad_now)} images {self.are_bad}, more than data.max_bad_fraction allows; the last one: {place} ({bad})"
            )
