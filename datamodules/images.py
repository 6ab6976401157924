"""Any folder of images, with labels where it has folders of classes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.caption_sources import ALLOW, Bad, Sample, Source, check_root, walk
from datamodules.decode import EXTENSIONS
from datamodules.folder import FolderDataModule, FolderDataset
from datamodules.manifest import Manifest
from datamodules.sampler import rank_and_world
from files import printable

PARTS = frozenset(("train", "training", "val", "valid", "validation", "test"))  # folders that are no classes
_MOST_NAMES = 10  # classes that a message names


class ImagesDataset(FolderDataset):
    """As `FolderDataset`, with `label` where there are classes.

    Args: classes: their folders, in the order of the labels; empty where there are none.
    """

    def __init__(self, root: Path, samples: list[Sample], image_size: int, *, classes: tuple[str, ...], **settings: Any) -> None:
        super().__init__(root, samples, image_size, **settings)
        self.labels = {name: label for label, name in enumerate(classes)}

    def facts(self, index: int, seed: int) -> dict[str, Any]:
        return {"label": self.labels[class_of(self.samples[index].file)]} if self.labels else {}


class ImagesDataModule(FolderDataModule):
    """A folder of images; each folder directly in it is a class, its images lie in it at any depth.

    `class_names` holds the classes in the order of their labels once the folder is read, empty where there are none.

    Args:
        root: the image folder.
        channels: 3, or 1 for the brightness alone.
        num_classes: how many class folders there must be, for models to refer to; None takes what is there.
        labels: False reads folders as mere places, without classes.
        random_flip, augment_prob, val_fraction, test_fraction, max_bad_fraction: see FolderDataModule.
        cache_in_memory, cache_dir, allow_outside: see FolderDataModule.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for what is in the folder in `setup`.
    """

    kind = "images"

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 64,
        channels: int = 3,
        num_classes: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        labels: bool = True,
        random_flip: bool = False,
        augment_prob: float = 0.0,
        val_fraction: float = 0.02,
        test_fraction: float = 0.0,
        max_bad_fraction: float = 0.01,
        cache_in_memory: bool | str = "auto",
        cache_dir: str = ".cache",
        allow_outside: bool = False,
    ) -> None:
        super().__init__(
            root, random_flip=random_flip, augment_prob=augment_prob, val_fraction=val_fraction, test_fraction=test_fraction,
            max_bad_fraction=max_bad_fraction, cache_in_memory=cache_in_memory, cache_dir=cache_dir,
            allow_outside=allow_outside, image_size=image_size, batch_size=batch_size, channels=channels,
            num_classes=num_classes, num_workers=num_workers,
        )  # fmt: skip
        if channels not in (1, 3):
            raise ValueError(f"data.channels={channels!r}: choose 3, or 1 for images in grey")
        if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 2):
            raise ValueError(f"data.num_classes must be null or a whole number of at least 2, got {num_classes!r}")
        if not isinstance(labels, bool):
            raise ValueError(f"data.labels must be true or false, got {labels!r}")
        if num_classes is not None and not labels:
            raise ValueError(f"data.num_classes={num_classes} and data.labels=false contradict each other: drop one")
        self.labels = labels
        self.class_names: tuple[str, ...] = ()

    def read(self) -> Source:
        source, self.class_names = read_images(self.root, self.labels, self.allow_outside)
        if self.num_classes not in (None, len(self.class_names)):
            found = f"has {len(self.class_names)} class folders ({_some(self.class_names)})" if self.class_names else "has none"
            remedy = f"data.num_classes={len(self.class_names) or 'null'}"
            raise ValueError(f"data.num_classes={self.num_classes}, and {self.root} {found}: set {remedy}")
        return source

    def load_manifest(self) -> Manifest:
        if self.manifest is None:
            manifest = super().load_manifest()
            usable = {class_of(sample.file) for sample in manifest.samples}
            if lacking := [name for name in self.class_names if name not in usable]:
                self.manifest = None
                folder = self.root / lacking[0]
                raise ValueError(f"class folder {folder} has no usable image: see {manifest.bad_list}, or remove it")
            if self.class_names and self.num_classes is None and rank_and_world()[0] == 0:
                count = len(self.class_names)
                print(printable(f"{count} classes ({_some(self.class_names)}): data.num_classes={count} tells a model"))
            self.num_classes = len(self.class_names) or None
        return self.manifest

    def dataset(self, samples: list[Sample], **settings: Any) -> ImagesDataset:
        return ImagesDataset(
            self.root, samples, self.image_size, classes=self.class_names, channels=self.channels, **settings
        )

    def settings(self) -> tuple[Any, ...]:
        return (*super().settings(), self.channels, self.test_fraction, self.augment_prob, self.class_names)


def class_of(file: str) -> str:
    """The class folder of a file relative to the root."""
    return file.partition("/")[0]


def read_images(root: Path, labels: bool = True, allow_outside: bool = False) -> tuple[Source, tuple[str, ...]]:
    """A folder's images, sorted by file, and its class folders, sorted; none where no folder or only one has images.

    Raises: FileNotFoundError or ValueError in one line for a missing or empty folder, a class folder without images, or
        images beside class folders.
    """
    check_root(root)
    refused: list[Bad] = []
    there = list(walk(root, allow_outside, refused))
    images = sorted(file for file in there if Path(file).suffix.lower() in EXTENSIONS)
    if not images:
        ends = Counter(Path(file).suffix.lower() or "no ending" for file in there).most_common(5)
        seen = [f"{count:,} {end}" for end, count in ends]
        seen += [f"{len(refused):,} refused: {refused[0].file} is {refused[0].detail}"] if refused else []
        raise ValueError(f"data.root: {root} holds no images" + (f" (saw {', '.join(seen)})" if seen else ""))
    source = Source("images", [Sample(file, ()) for file in images], refused=refused, captioned=False)
    classes = sorted({class_of(file) for file in images if "/" in file})
    folders, beside = _folders(root), [file for file in images if "/" not in file]
    if not labels or not classes or len(classes) == 1 and (beside or len(folders) == 1):
        return source, ()
    unlike = "; data.labels=false reads all folders without classes"
    if beside:
        raise ValueError(f"{root} holds images beside its class folders ({beside[0]}): move or remove them{unlike}")
    if PARTS.issuperset(map(str.lower, classes)):
        raise ValueError(f"{root} holds the parts {', '.join(classes)}: is data.root={root / classes[0]} meant?{unlike}")
    for name in folders:
        if name not in classes:
            why = next((bad.detail for bad in refused if bad.file == name), "")
            remedy = f"it is {why}; {ALLOW} takes it" if "data.root" in why else why or "remove it"
            raise ValueError(f"class folder {root / name} holds no images: {remedy}{unlike}")
    source.layout = f"images in {len(classes):,} class folders"
    return source, tuple(classes)


def _folders(root: Path) -> list[str]:
    """Visible folders directly in the root, and links to folders."""
    with os.scandir(root) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        return sorted(entry.name for entry in visible if os.path.isdir(entry.path))


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return printable(", ".join(name[:40] for name in names[:_MOST_NAMES])) + more
