"""Captioned images from your own folder, or from COCO."""

from __future__ import annotations

from typing import Any

from datamodules.caption_sources import Sample, Source, check_template, read_source
from datamodules.folder import FolderDataModule, FolderDataset, split_by_name
from rng.hashing import stable_hash

__all__ = ["CaptionsDataModule", "CaptionsDataset", "split_by_name"]


class CaptionsDataset(FolderDataset):
    """As `FolderDataset`, with `caption`: the sample seed chooses among the captions of an image."""

    def facts(self, index: int, seed: int) -> dict[str, Any]:
        sample = self.samples[index]
        return {"caption": sample.captions[stable_hash("caption", seed) % len(sample.captions)]}


class CaptionsDataModule(FolderDataModule):
    """Your captioned images, in any of the layouts of docs/data.md.

    Args:
        root: the image folder.
        annotations: a captions file elsewhere (COCO JSON, or a table), None to look for one in root.
        class_template: caption of images in class folders, with {} for the folder's name.
        random_flip: mirror half of the training images; off, because captions say left and right.
        val_fraction: share of the images held out for validation, chosen by hash of the file name.
        test_fraction: share of the others held out for test; at 0 the test images are those of validation.
        max_bad_fraction: share of unusable images above which nothing starts.
        cache_in_memory: keep decoded images: True, False or "auto" (where all loaders together need at most 1 GiB).
        cache_dir: where the verdicts on the files are kept.
        allow_outside: take images outside root, which captions name by their path or links lead to.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for what is in the folder in `setup`.
    """

    kind = "captions"

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
        test_fraction: float = 0.0,
        max_bad_fraction: float = 0.01,
        cache_in_memory: bool | str = "auto",
        cache_dir: str = ".cache",
        allow_outside: bool = False,
    ) -> None:
        super().__init__(
            root, random_flip=random_flip, val_fraction=val_fraction, test_fraction=test_fraction,
            max_bad_fraction=max_bad_fraction, cache_in_memory=cache_in_memory, cache_dir=cache_dir, allow_outside=allow_outside,
            image_size=image_size, batch_size=batch_size, captioned=True, num_workers=num_workers,
        )  # fmt: skip
        if class_template is not None:
            check_template(class_template)
        self.annotations, self.class_template = annotations, class_template

    def read(self) -> Source:
        return read_source(self.root, self.annotations, self.class_template, self.allow_outside)

    def settings(self) -> tuple[Any, ...]:
        # Runs from before there was a test_fraction go on: without one the digest is theirs.
        return (*super().settings(), *([self.test_fraction] if self.test_fraction else []))

    def dataset(self, samples: list[Sample], **settings: Any) -> CaptionsDataset:
        return CaptionsDataset(self.root, samples, self.image_size, **settings)
