"""Captioned images read from tar shards as they are: nothing is unpacked, and any sample is one read."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import ImageDataModule
from datamodules.caption_tables import clean
from datamodules.decode import BadImage
from datamodules.fetch_ahead import FetchAhead
from datamodules.items import StoredImages
from datamodules.manifest import manifest_folder
from datamodules.sampler import Order, rank_and_world
from datamodules.shard_files import RemoteShards, shard_files
from datamodules.shard_order import Part, ShardOrder
from datamodules.tar_index import ROW, Shard, TarIndex, build_tar_index
from datamodules.tars import TEXTS, captions_in
from files import Unreachable, printable
from rng.hashing import stable_hash

_OPEN_SHARDS = 64  # of a process; each takes two file handles, of its own and of its table


class TarDataset(StoredImages):
    """Samples of tar shards, with `caption`: the sample seed chooses among the captions of an image. See StoredImages.

    Args:
        index: of the shards.
        part: which samples.
    """

    is_bad = are_bad = "cannot be used"  # nobody has looked at the images before

    def __init__(self, index: TarIndex, part: Part, image_size: int, **settings: Any) -> None:
        super().__init__(index.files.where, image_size, keep=False, **settings)
        self.index, self.part = index, part
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()  # file and table of the shards read last

    def __len__(self) -> int:
        return len(self.part)

    def source(self, index: int) -> bytes:
        file, row = self._row(index)
        return self._read(file, int(row["image_at"]), int(row["image_bytes"]))

    def place(self, index: int) -> str:
        number, row = self.part.find(index)
        return f"{self.index.files.place(self.index.shards[number].name)}, sample {row}"

    def facts(self, index: int, seed: int) -> dict[str, Any]:
        file, row = self._row(index)
        captions = captions_in(self._read(file, int(row["text_at"]), int(row["text_bytes"])), TEXTS[row["kind"]])
        if not captions:
            raise BadImage("corrupt", "its caption is not there any more")
        captions = captions if isinstance(captions, list) else [captions]
        return {"caption": clean(captions[stable_hash("caption", seed) % len(captions)])}

    def _row(self, index: int) -> tuple[int, np.void]:
        """The file of a sample's shard, and where in it the sample lies."""
        number, row = self.part.find(index)
        if number not in self._open:
            self._open[number] = self._opened(number)
            if len(self._open) > _OPEN_SHARDS:
                self._close(last=False)
        self._open.move_to_end(number)
        file, table = self._open[number]
        return file, np.frombuffer(self._read(table, ROW.itemsize * row, ROW.itemsize), ROW)[0]

    def _opened(self, number: int) -> tuple[int, int]:
        files: list[int] = []
        shard = self.index.shards[number]
        try:
            files.append(self.index.files.open(shard.name))
            files.append(os.open(self.index.table(shard), os.O_RDONLY))
        except OSError as error:
            for file in files:
                os.close(file)
            if isinstance(error, Unreachable):  # all of its samples are lost, and soon those of others
                raise
            raise BadImage("missing" if isinstance(error, FileNotFoundError) else "unreadable", error.strerror or "") from None
        return files[0], files[1]

    def _close(self, last: bool) -> None:
        for file in self._open.popitem(last)[1]:
            os.close(file)

    @staticmethod
    def _read(file: int, begin: int, count: int) -> bytes:
        """A part of a shard; processes may share the file."""
        try:
            found = os.pread(file, count, begin)
        except OSError as error:
            raise BadImage("unreadable", error.strerror or "") from None
        if len(found) < count:
            raise BadImage("truncated", f"the shard ends before byte {begin + count:,}")
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # files are opened again in a loader's process

    def close(self) -> None:
        """Closes the shards; the next read opens them again."""
        while self._open:
            self._close(last=True)

    def __del__(self) -> None:
        if "_open" in self.__dict__:  # not where its arguments were wrong
            self.close()


class ShardsDataModule(ImageDataModule):
    """Captioned images in tar shards, as WebDataset and img2dataset write them.

    The shards are read once for where each sample lies. Images are not decoded beforehand: one that turns out bad in training is
    replaced by another and told. A shard that is cut off or damaged is named with the place, and nothing of it is used.

    Args:
        root: the folder of the shards, or a URL of theirs.
        mixed_shards: how many shards a stretch of training is mixed from, for disks and networks on which reading here and there is
            slow; None mixes all samples.
        random_flip: mirror half of the training images; off, because captions say left and right.
        val_fraction: share of every shard's samples held out for validation, at most a third; as many are held out for test.
        max_bad_fraction: share of damaged shards, of samples that lack a part, or of images gone bad above which nothing goes on.
        cache_dir: where the tables of the shards are kept.
        cache_gb: gigabytes (10^9 bytes) of fetched shards that a machine keeps, for a root that is a URL.
        local_dir: where it keeps them, a fast disk of each machine; None is below cache_dir.
    Raises: ValueError or FileNotFoundError in one line: for arguments at once, for what is in the folder in `setup`.
    """

    def __init__(
        self,
        root: str | None = None,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        mixed_shards: int | None = None,
        random_flip: bool = False,
        val_fraction: float = 0.01,
        max_bad_fraction: float = 0.01,
        cache_dir: str = ".cache",
        cache_gb: float = 100.0,
        local_dir: str | None = None,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, captioned=True, num_workers=num_workers)
        if not root:
            raise ValueError("data.root is not set: give the folder that holds your .tar shards, data.root=/path/to/shards, or its URL")
        if not 0 < val_fraction <= 1 / 3:
            raise ValueError(f"data.val_fraction must be above 0 and at most 1/3, got {val_fraction}")
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie between 0 and 1, got {max_bad_fraction}")
        if mixed_shards is not None and (not isinstance(mixed_shards, int) or mixed_shards < 1):
            raise ValueError(f"data.mixed_shards must be null or a whole number of at least 1, got {mixed_shards!r}")
        self.cache_dir = Path(cache_dir).expanduser()
        kept = Path(local_dir).expanduser() if local_dir else self.cache_dir
        self.files = shard_files(str(root), kept / "fetched_shards", int(1e9 * cache_gb))
        self.mixed_shards, self.random_flip = mixed_shards, random_flip
        self.val_fraction, self.max_bad_fraction = val_fraction, max_bad_fraction
        self.index: TarIndex | None = None

    def prepare_data(self) -> None:
        """One process reads the shards; the others then find their tables."""
        self.load_index()

    def load_index(self) -> TarIndex:
        """The shards' tables, made at the first call. Raises: ValueError where too much cannot be used."""
        if self.index is None:
            stats = self.files.listing()
            if isinstance(self.files, RemoteShards):
                self.files.require(self.mixed_shards)
            index = build_tar_index(self.files, self.tables(), stats)
            if rank_and_world()[0] == 0:
                print(printable(f"{self.files.where}: {index.summary()}"))
                for line in index.damaged:
                    print(f"damaged: {line}")
            index.require(self.max_bad_fraction)
            self.index = index
        return self.index

    def tables(self) -> Path:
        """The folder of the tables."""
        if isinstance(self.files, RemoteShards):
            return self.cache_dir / "shards" / f"{stable_hash(self.files.url):016x}"
        return manifest_folder(self.cache_dir, self.files.root, None, "shards")

    def setup(self, stage: str | None = None) -> None:
        if self.train_dataset is not None:
            return
        index, period = self.load_index(), round(1 / self.val_fraction)
        names, sizes = [s.name for s in index.shards], [s.num_rows for s in index.shards]
        total = sum(sizes)
        max_bad = max(1, int(self.max_bad_fraction * total))
        for kind in ("train", "val", "test"):
            part = Part(names, sizes, period, kind)
            if not len(part):
                raise ValueError(f"data.val_fraction={self.val_fraction} leaves no image for {kind} among {total:,}: give a larger one, at most 1/3")
            flip = self.random_flip and kind == "train"
            setattr(self, f"{kind}_dataset", TarDataset(index, part, self.image_size, random_flip=flip, max_bad=max_bad))

    def train_order(self) -> Order | None:
        if not self.mixed_shards:
            return None
        order = ShardOrder(self.train_dataset.part.counts, self.mixed_shards, self.run_seed)
        return FetchAhead(order, self.files, [s.name for s in self.index.shards]) if isinstance(self.files, RemoteShards) else order

    def captions(self) -> tuple[int, Iterator[Sequence[str]]]:
        shards = self.load_index().shards
        return sum(shard.num_rows for shard in shards), itertools.chain.from_iterable(map(self._captions_of, shards))

    def _captions_of(self, shard: Shard) -> Iterator[Sequence[str]]:
        with os.fdopen(self.files.open(shard.name), "rb") as file:
            for row in np.fromfile(self.index.table(shard), ROW):
                file.seek(int(row["text_at"]))
                found = captions_in(file.read(int(row["text_bytes"])), TEXTS[row["kind"]]) or ()
                yield tuple(clean(text) for text in ([found] if isinstance(found, str) else found))

    def fingerprint(self) -> str:
        """Digest of the shards' names, sizes and marks, and of the arguments that change what is served."""
        settings = (self.load_index().digest(), self.image_size, self.val_fraction, self.random_flip, self.mixed_shards)
        return hashlib.blake2b(repr(settings).encode(), digest_size=16).hexdigest()
