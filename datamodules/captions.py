"""Captioned images from your own folder, or from COCO: read once, judged once, then served without surprises."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.base import ImageDataModule, to_model_range
from datamodules.caption_sources import Sample, check_template, read_source
from datamodules.decode import BadImage, load_square
from datamodules.manifest import Manifest, build_manifest, manifest_folder
from datamodules.sampler import Key, rank_and_world
from files import printable
from rng.hashing import stable_hash

_AUTO_CACHE_BYTES = 2**30
_MAX_TRIES = 10


class CaptionsDataset(Dataset):
    """`dataset[(index, sample_seed)]`: index fixes the image, sample_seed the choice of caption and of a flip.

    An item holds `image` float32 (3, S, S) in [-1, 1], `caption` and `seed`. A file that has gone bad since the
    scan is replaced by another sample, chosen by sample_seed; `bad_now` holds the indices of such files.

    Args:
        max_bad: how many files may go bad before RuntimeError.
        keep: hold decoded images in memory, as uint8.
    """

    def __init__(
        self, root: Path, samples: list[Sample], image_size: int, *, random_flip: bool, keep: bool, max_bad: int
    ) -> None:
        self.root, self.samples, self.image_size = root, samples, image_size
        self.random_flip, self.keep, self.max_bad = random_flip, keep, max_bad
        self.bad_now: set[int] = set()
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, seed = key
        for attempt in range(_MAX_TRIES):
            try:
                image_u8 = self._image(index)
                break
            except BadImage as bad:
                self._count(index, bad)
                index = stable_hash("replacement", seed, attempt) % len(self.samples)
        else:
            raise RuntimeError(f"{_MAX_TRIES} images in a row could not be read; is {self.root} still there?")
        if self.random_flip and stable_hash("flip", seed) & 1:
            image_u8 = image_u8[:, ::-1]
        captions = self.samples[index].captions
        text = captions[stable_hash("caption", seed) % len(captions)]
        return {"image": to_model_range(image_u8), "caption": text, "seed": seed}

    def _image(self, index: int) -> np.ndarray:
        image_u8 = self._kept.get(index)
        if image_u8 is None:
            image_u8 = load_square(self.root / self.samples[index].file, self.image_size)
            if self.keep:
                self._kept[index] = image_u8
        return image_u8

    def _count(self, index: int, bad: BadImage) -> None:
        if index in self.bad_now:
            return
        self.bad_now.add(index)
        file = printable(self.root / self.samples[index].file)
        warnings.warn(f"{file} has gone bad since it was checked ({bad}); another sample takes its place", stacklevel=2)
        if len(self.bad_now) > self.max_bad:
            raise RuntimeError(
                f"{len(self.bad_now)} images have gone bad since they were checked, more than data.max_bad_fraction "
                f"allows; the last one: {file} ({bad})"
            )


class CaptionsDataModule(ImageDataModule):
    """Your captioned images, in any of the layouts of docs/data.md.

    Args:
        root: the image folder.
        annotations: a captions file elsewhere (COCO JSON, or a table), None to look for one in root.
        class_template: caption of images in class folders, with {} for the folder's name.
        random_flip: mirror half of the training images; off, because captions say left and right.
        val_fraction: share of the images held out, chosen by hash of the file name.
        max_bad_fraction: share of unusable images above which nothing starts.
        cache_in_memory: keep decoded images: True, False or "auto" (where all loaders together need at most 1 GiB).
        cache_dir: where the verdicts on the files are kept.
        allow_outside: take images outside root, which captions name by their path or links lead to.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for what is in the folder in `setup`.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        annotations: str | None = None,
        class_template: str | None = None,
        random_flip: bool = False,
        val_fraction: float = 0.02,
        max_bad_fraction: float = 0.01,
        cache_in_memory: bool | str = "auto",
        cache_dir: str = ".cache",
        allow_outside: bool = False,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, captioned=True, num_workers=num_workers)
        if not root:
            raise ValueError("data.root is not set: give the folder that holds your images, data.root=/path/to/images")
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction must lie between 0 and 1, got {val_fraction}")
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie between 0 and 1, got {max_bad_fraction}")
        if cache_in_memory not in (True, False, "auto"):
            raise ValueError(f"data.cache_in_memory must be true, false or auto, got {cache_in_memory!r}")
        if class_template is not None:
            check_template(class_template)
        if not isinstance(allow_outside, bool):
            raise ValueError(f"data.allow_outside must be true or false, got {allow_outside!r}")
        self.root, self.annotations, self.class_template = Path(root).expanduser(), annotations, class_template
        self.random_flip, self.val_fraction, self.max_bad_fraction = random_flip, val_fraction, max_bad_fraction
        self.cache_in_memory, self.cache_dir = cache_in_memory, Path(cache_dir).expanduser()
        self.allow_outside = allow_outside
        self.manifest: Manifest | None = None

    def prepare_data(self) -> None:
        """One process judges the files; the others then find the verdicts."""
        self._load_manifest()

    def setup(self, stage: str | None = None) -> None:
        if self.train_dataset is not None:
            return
        manifest = self._load_manifest()
        train, val = split_by_name(manifest.samples, self.val_fraction)
        max_bad = max(1, int(self.max_bad_fraction * len(manifest.samples)))
        keep = self.cache_in_memory
        if keep == "auto":
            in_bytes = len(manifest.samples) * self.image_size**2 * 3 * max(1, self.num_workers)
            keep = in_bytes <= _AUTO_CACHE_BYTES
        common = {"keep": keep, "max_bad": max_bad}
        self.train_dataset = CaptionsDataset(self.root, train, self.image_size, random_flip=self.random_flip, **common)
        self.val_dataset = CaptionsDataset(self.root, val, self.image_size, random_flip=False, **common)
        self.test_dataset = self.val_dataset

    def fingerprint(self) -> str:
        """Digest of the usable files' names, sizes and captions, and of the arguments that change what is served."""
        facts = (self._load_manifest().digest(), self.image_size, self.val_fraction, self.random_flip)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def _load_manifest(self) -> Manifest:
        if self.manifest is None:
            source = read_source(self.root, self.annotations, self.class_template, self.allow_outside)
            folder = manifest_folder(self.cache_dir, self.root, self.annotations)
            manifest = build_manifest(self.root, source, folder, self.allow_outside)
            if rank_and_world()[0] == 0:
                print(printable(f"{self.root} ({source.layout}): {manifest.summary()}"))
            manifest.require(self.max_bad_fraction)
            self.manifest = manifest
        return self.manifest


def split_by_name(samples: list[Sample], val_fraction: float) -> tuple[list[Sample], list[Sample]]:
    """(train, val) by hash of the file name: adding images moves none of the others, and neither part is ever empty."""
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} usable image is too few to hold one out for validation; give at least 2")
    by_hash = {sample.file: stable_hash("val", sample.file) for sample in samples}
    held_out = {file for file, value in by_hash.items() if value < val_fraction * 2**63}
    if not held_out:
        held_out = {min(by_hash, key=by_hash.get)}
    if len(held_out) == len(samples):
        held_out.remove(max(by_hash, key=by_hash.get))
    train = [sample for sample in samples if sample.file not in held_out]
    return train, [sample for sample in samples if sample.file in held_out]
