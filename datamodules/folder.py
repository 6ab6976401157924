"""What datamodules of image folders share: pictures are judged once, then served without surprises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.augment import check_prob
from datamodules.base import ImageDataModule
from datamodules.caption_sources import Sample, Source
from datamodules.items import StoredImages
from datamodules.manifest import Manifest, build_manifest, manifest_folder
from datamodules.sampler import rank_and_world
from files import printable
from rng.hashing import stable_hash

_AUTO_CACHE_BYTES = 2**30
_PURPOSE = {"val": "validation", "test": "test"}


class FolderDataset(StoredImages):
    """Images that are files below a folder; see StoredImages for the items and the other arguments.

    Args:
        root: the folder.
        samples: its usable images.
    """

    def __init__(self, root: Path, samples: list[Sample], image_size: int, **settings: Any) -> None:
        super().__init__(root, image_size, **settings)
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def source(self, index: int) -> Path:
        return self.root / self.samples[index].file

    def place(self, index: int) -> str:
        return str(self.source(index))


class FolderDataModule(ImageDataModule):
    """Base of datamodules whose images are files below `root`; a subclass says what the folder holds and of what kind.

    Args:
        root: the image folder.
        random_flip: mirror half of the training images.
        augment_prob: of each kind of augmentation in training, see datamodules.augment; 0 is off, EDM takes 0.12.
        val_fraction: share of the images held out for validation, chosen by hash of the file name.
        test_fraction: share of the others held out for test; at 0 the test images are those of validation.
        max_bad_fraction: share of unusable images above which nothing starts.
        cache_in_memory: keep decoded images: True, False or "auto" (where all loaders together need at most 1 GiB).
        cache_dir: where the verdicts on the files are kept.
        allow_outside: take images outside root, to which links or paths lead.
        facts: what else a datamodule declares, see ImageDataModule.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for what is in the folder in `setup`.
    """

    kind = ""  # of the verdicts' folder below cache_dir

    def __init__(
        self,
        root: str | None,
        *,
        random_flip: bool,
        augment_prob: float = 0.0,
        val_fraction: float,
        test_fraction: float = 0.0,
        max_bad_fraction: float,
        cache_in_memory: bool | str,
        cache_dir: str,
        allow_outside: bool,
        **facts: Any,
    ) -> None:
        super().__init__(**facts)
        if not root:
            raise ValueError("data.root is not set: give the folder that holds your images, data.root=/path/to/images")
        check_prob(augment_prob)
        if not 0 < val_fraction < 1:
            raise ValueError(f"data.val_fraction must lie between 0 and 1, got {val_fraction}")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"data.test_fraction must be at least 0 and below 1, got {test_fraction}")
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie between 0 and 1, got {max_bad_fraction}")
        if cache_in_memory not in (True, False, "auto"):
            raise ValueError(f"data.cache_in_memory must be true, false or auto, got {cache_in_memory!r}")
        if not isinstance(allow_outside, bool):
            raise ValueError(f"data.allow_outside must be true or false, got {allow_outside!r}")
        self.root, self.allow_outside, self.random_flip = Path(root).expanduser(), allow_outside, random_flip
        self.val_fraction, self.test_fraction, self.max_bad_fraction = val_fraction, test_fraction, max_bad_fraction
        self.cache_in_memory, self.cache_dir = cache_in_memory, Path(cache_dir).expanduser()
        self.annotations: str | None = None
        self.augment_prob = augment_prob
        self.manifest: Manifest | None = None

    def read(self) -> Source:
        """The folder's samples, before any file is opened."""
        raise NotImplementedError

    def dataset(self, samples: list[Sample], **settings: Any) -> FolderDataset:
        """The data set of some of the samples."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """One process judges the files; the others then find the verdicts."""
        self.load_manifest()

    def setup(self, stage: str | None = None) -> None:
        if self.train_dataset is not None:
            return
        samples = self.load_manifest().samples
        keep = self.cache_in_memory
        if keep == "auto":
            in_bytes = len(samples) * self.image_size**2 * self.channels * max(1, self.num_workers)
            keep = in_bytes <= _AUTO_CACHE_BYTES
        common = {"keep": keep, "max_bad": max(1, int(self.max_bad_fraction * len(samples)))}
        held_out = {**common, "random_flip": False, "augment_prob": 0.0 if self.augment_prob else None}
        parts, made = self.split(samples), {}
        self.train_dataset = self.dataset(
            parts.pop("train"), random_flip=self.random_flip, augment_prob=self.augment_prob or None, **common
        )
        for name, part in parts.items():
            made[id(part)] = made.get(id(part)) or self.dataset(part, **held_out)
            setattr(self, f"{name}_dataset", made[id(part)])

    def split(self, samples: list[Sample]) -> dict[str, list[Sample]]:
        """The parts by name: train, val, test, and what else a subclass holds out; parts may be one and the same list."""
        train, val = split_by_name(samples, self.val_fraction)
        test = val
        if self.test_fraction:
            train, test = split_by_name(train, self.test_fraction, "test")
        return {"train": train, "val": val, "test": test}

    def captions(self) -> tuple[int, Iterator[Sequence[str]]]:
        if not self.captioned:
            return super().captions()
        samples = self.load_manifest().samples
        return len(samples), (sample.captions for sample in samples)

    def fingerprint(self) -> str:
        """Digest of the usable files' names, sizes and captions, and of the arguments that change what is served."""
        return hashlib.blake2b(repr(self.settings()).encode(), digest_size=16).hexdigest()

    def settings(self) -> tuple[Any, ...]:
        """What decides on the training images: the files' digest and arguments."""
        return (self.load_manifest().digest(), self.image_size, self.val_fraction, self.random_flip)

    def load_manifest(self) -> Manifest:
        """The verdicts on all files, made at the first call. Raises: ValueError where too many cannot be used."""
        if self.manifest is None:
            source = self.read()
            folder = manifest_folder(self.cache_dir, self.root, self.annotations, self.kind)
            manifest = build_manifest(self.root, source, folder, self.allow_outside)
            if rank_and_world()[0] == 0:
                print(printable(f"{self.root} ({source.layout}): {manifest.summary()}"))
            manifest.require(self.max_bad_fraction)
            self.manifest = manifest
        return self.manifest


def split_by_name(samples: list[Sample], fraction: float, tag: str = "val") -> tuple[list[Sample], list[Sample]]:
    """(rest, held out) by hash of tag and file name: adding images moves none of the others; neither part is empty."""
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} usable image is too few to hold one out for {_PURPOSE[tag]}; give at least 2")
    by_hash = {sample.file: stable_hash(tag, sample.file) for sample in samples}
    held_out = {file for file, value in by_hash.items() if value < fraction * 2**63}
    if not held_out:
        held_out = {min(by_hash, key=by_hash.get)}
    if len(held_out) == len(samples):
        held_out.remove(max(by_hash, key=by_hash.get))
    rest = [sample for sample in samples if sample.file not in held_out]
    return rest, [sample for sample in samples if sample.file in held_out]
