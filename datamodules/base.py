"""What every datamodule shares: declared facts, the endless training loader, unpadded validation shards, collation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.sampler import EndlessBatchSampler, Key, Order, rank_and_world
from datamodules.workers import watched_worker
from rng.hashing import stable_hash


def channels_first(image_u8: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) or (H, W) -> (C, H, W), a view."""
    return image_u8[None] if image_u8.ndim == 2 else image_u8.transpose(2, 0, 1)


def to_model_range(image_u8: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, C) or (H, W) -> float32 (C, H, W) in [-1, 1], as x / 127.5 - 1."""
    planes = channels_first(image_u8)
    image = np.empty(planes.shape, dtype=np.float32)
    np.divide(planes, np.float32(127.5), out=image)
    image -= 1.0
    return torch.from_numpy(image)


def collate(items: list[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Items -> batch dict: tensors stacked, integers to int64 (B,), everything else (captions, specs) a list.

    A batch dict stays what it is: a dataset with `__getitems__` makes whole batches.
    """
    if isinstance(items, dict):
        return items
    batch: dict[str, Any] = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack(values)
        elif isinstance(first, (int, np.integer)):
            batch[key] = torch.tensor(values, dtype=torch.int64)
        else:
            batch[key] = values
    return batch


class BatchedDataset(Dataset):
    """A map-style data set that makes whole batches; `__getitem__` is a batch of one."""

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """A whole batch: what collating the items one by one would give."""
        raise NotImplementedError

    def __getitem__(self, key: Key) -> dict[str, Any]:
        first = {name: values[0] for name, values in self.__getitems__([key]).items()}
        return {name: int(first[name]) if name in ("label", "seed") else first[name] for name in first}


class ShardBatchSampler(Sampler):
    """Batches of this rank's unpadded share `range(n)[rank::world]`, each sample with a seed fixed for ever."""

    def __init__(self, num_samples: int, batch_size: int, tag: str) -> None:
        self.num_samples, self.batch_size, self.tag = num_samples, batch_size, tag
        self.sampler = self  # as in EndlessBatchSampler

    def _share(self) -> range:
        rank, world = rank_and_world()
        return range(self.num_samples)[rank::world]

    def __len__(self) -> int:
        return -(-len(self._share()) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        share = self._share()
        for begin in range(0, len(share), self.batch_size):
            yield [(i, stable_hash(self.tag, i)) for i in share[begin : begin + self.batch_size]]


class ImageDataModule(pl.LightningDataModule):
    """Base of all datamodules: declares the data's facts and builds the loaders; a subclass's `setup` sets the data.

    Args:
        image_size: side of the square images, in pixels.
        channels: 1 or 3.
        num_classes: number of classes, None where there are no labels.
        captioned: whether batches carry `caption`.
        batch_size: global, over all processes.
        num_workers: loader processes per rank; what a batch holds does not depend on it.
    Raises: ValueError for an image size, batch size or worker count out of range.
    """

    def __init__(
        self,
        *,
        image_size: int,
        batch_size: int,
        channels: int = 3,
        num_classes: int | None = None,
        captioned: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        sizes = (("image_size", image_size, 1), ("batch_size", batch_size, 1), ("num_workers", num_workers, 0))
        for name, value, least in sizes:
            if not isinstance(value, int) or value < least:
                raise ValueError(f"data.{name} must be a whole number of at least {least}, got {value!r}")
        self.image_size, self.channels, self.num_classes, self.captioned = image_size, channels, num_classes, captioned
        self.batch_size, self.num_workers = batch_size, num_workers
        self.train_dataset: Dataset | None = None
        self.val_dataset: Dataset | None = None
        self.test_dataset: Dataset | None = None
        # The runtime sets these before fit; without it, a run is one pass over the data.
        self.num_batches: int | None = None
        self.run_seed = 0
        self.start_batch = 0

    def fingerprint(self) -> str:
        """Hex digest of what the data is; a run must not be resumed on data with another one."""
        raise NotImplementedError

    def example_prompts(self, n: int = 8) -> list[str]:
        """At most n different captions for sample grids, the first of validation; none of data without captions."""
        dataset = self.val_dataset or self.train_dataset
        if not self.captioned or dataset is None:
            return []
        captions = (dataset[i, i]["caption"] for i in range(min(len(dataset), 8 * n)))
        return list(itertools.islice(dict.fromkeys(filter(None, captions)), n))

    def captions(self) -> tuple[int, Iterator[Sequence[str]]]:
        """The number of images, and of each the captions that it can show, always in the same order; after `setup`.

        Raises: ValueError where there is no list of them.
        """
        raise ValueError(f"{type(self).__name__} has no list of captions: data=captions, coco, shards, emoji and scenes_simple have")

    def train_dataloader(self) -> DataLoader:
        n = len(self.train_dataset)
        num_batches = self.num_batches if self.num_batches is not None else max(1, n // self.batch_size)
        sampler = EndlessBatchSampler(n, self.batch_size, num_batches, self.run_seed, self.start_batch, self.train_order())
        return self._loader(self.train_dataset, sampler)

    def train_order(self) -> Order | None:
        """The order of training, where it is not a random one over all samples."""
        return None

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_dataset, self._shards(self.val_dataset, "val"))

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_dataset, self._shards(self.test_dataset, "test"))

    def _shards(self, dataset: Dataset, tag: str) -> ShardBatchSampler:
        return ShardBatchSampler(len(dataset), max(1, self.batch_size // rank_and_world()[1]), tag)

    def _loader(self, dataset: Dataset, batch_sampler: Sampler) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            worker_init_fn=watched_worker,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A generator of its own: starting a loader must not advance the global random state of the run.
            generator=torch.Generator().manual_seed(0),
        )
