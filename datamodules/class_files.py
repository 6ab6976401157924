"""Files of MNIST, Fashion-MNIST and CIFAR: found on disk, else downloaded by torchvision, and read without running code.

The folder `garments` beside this file is a part of Fashion-MNIST that comes with the repository.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import pickle
import socket
import textwrap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from files import read_bytes

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GARMENTS = (
    "t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DOWNLOAD_TIMEOUT_SEC = 20.0
MAX_BYTES = 2**28  # of a file, packed and unpacked: the largest real one has 150 MiB
MAX_NAME = 100  # characters of a class's name
Split = tuple[np.ndarray, np.ndarray]  # uint8 (N, C, S, S), int64 (N,)


@dataclass(frozen=True)
class Format:
    """Where a data set's files lie and what they must hold.

    `folders` are looked for below the root, `system` anywhere; `files` are (train, test) in the order in which they are
    read, `meta` the file with the class names, None where `classes` says them. `torchvision` is the name under which
    it downloads them. What is `packaged` comes with this repository, in `system`, and has no root.
    """

    torchvision: str
    folders: tuple[str, ...]
    side: int
    channels: int
    num_classes: int
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    meta: str | None = None
    names_key: str = ""
    labels_key: str = ""
    system: tuple[str, ...] = ()
    packaged: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train_files, *self.test_files, *([self.meta] if self.meta else []))


IDX_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
IDX_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FORMATS = {
    "garments": Format(
        "FashionMNIST", (), 28, 1, 10, IDX_TRAIN, IDX_TEST, classes=GARMENTS,
        system=(str(Path(__file__).with_name("garments")),), packaged=True,
    ),
    "mnist": Format("MNIST", ("MNIST/raw",), 28, 1, 10, IDX_TRAIN, IDX_TEST, classes=DIGITS),
    "fashion_mnist": Format(
        "FashionMNIST", ("FashionMNIST/raw",), 28, 1, 10, IDX_TRAIN, IDX_TEST, classes=GARMENTS,
        system=("/usr/share/datasets/fashion-mnist",),  # Debian's package dataset-fashion-mnist
    ),
    "cifar10": Format(
        "CIFAR10", ("cifar-10-batches-py",), 32, 3, 10, tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",),
        meta="batches.meta", names_key="label_names", labels_key="labels",
    ),
    "cifar100": Format(
        "CIFAR100", ("cifar-100-python",), 32, 3, 100, ("train",), ("test",),
        meta="meta", names_key="fine_label_names", labels_key="fine_labels",
    ),
}  # fmt: skip


def load(name: str, root: Path | None) -> tuple[Split, Split, tuple[str, ...]]:
    """The official (train, test) parts and the class names, from `root`, the system, or the network, in this order.

    Raises:
        FileNotFoundError: nowhere on disk and no network; says where to put which files.
        ValueError: a damaged file, or one of other images.
    """
    form, folder = FORMATS[name], locate(name, root)
    read = _read_idx_split if form.classes else _read_cifar_split
    parts = [read(folder, files, form) for files in (form.train_files, form.test_files)]
    return parts[0], parts[1], form.classes or _cifar_names(folder, form)


def locate(name: str, root: Path | None) -> Path:
    """The folder that holds all files of a data set, after a download where there was none."""
    form = FORMATS[name]
    if form.packaged:
        folder = Path(form.system[0])
        if missing := lacking(folder, form):
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}, which come with this repository: check them out again")
        return folder
    places = [*(root / f for f in form.folders), root, *map(Path, form.system)]
    found = next((p for p in places if not lacking(p, form)), None)
    if found is not None:
        return found
    reason = download(form, root)
    if reason is None and not lacking(places[0], form):
        return places[0]
    files = ", ".join(form.files) + (" (plain or .gz)" if form.classes else "")
    partly = [f"; {p} lacks {', '.join(lacking(p, form))}" for p in places if len(lacking(p, form)) < len(form.files)]
    raise FileNotFoundError(
        f"data.root={root} has no {name}{''.join(partly[:1])}, and it cannot be downloaded ({reason}): "
        f"put {files} into {places[0]}, or set data.root to the folder that holds them"
    )


def lacking(folder: Path, form: Format) -> list[str]:
    """Names of the files that a folder does not have, plain or gzipped."""
    return [name for name in form.files if _path(folder, name) is None]


def download(form: Format, root: Path) -> str | None:
    """Lets torchvision download; None, or why it could not."""
    from torchvision import datasets

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SEC)  # torchvision sets none: a silent firewall would hold us for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            getattr(datasets, form.torchvision)(str(root), download=True)
    except Exception as error:  # network, disk, checksums: many kinds
        text = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
        return textwrap.shorten(text, 160, placeholder=" …")
    finally:
        socket.setdefaulttimeout(before)
    return None


# ---- IDX, the format of MNIST ----


def _read_idx_split(folder: Path, files: tuple[str, ...], form: Format) -> Split:
    images_path, labels_path = (_path(folder, name) for name in files)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (form.side, form.side):
        raise ValueError(
            f"{images_path} holds images of {images.shape[1]} x {images.shape[2]} pixels, "
            f"{form.torchvision} has {form.side} x {form.side}: is it the file of another data set?"
        )
    return _checked(images[:, None], labels.astype(np.int64), form, labels_path)


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """A uint8 array of `ndim` dimensions from a plain or gzipped IDX file; ValueError for anything else.

    Source: LeCun, Cortes and Burges, "The MNIST database", file format
    """
    again = "delete it and get it anew"
    raw = read_bytes(path, MAX_BYTES)
    try:
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}): {again}") from None
    if len(raw) > MAX_BYTES:
        raise ValueError(f"{path} unpacks to more than {MAX_BYTES / 2**20:.0f} MiB: {again}")
    header = 4 + 4 * ndim
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, ndim)):
        raise ValueError(
            f"{path} is no IDX file of {ndim}-dimensional bytes: it begins with {raw[:4].hex() or 'nothing'}, "
            f"not {bytes((0, 0, 8, ndim)).hex()}: {again}"
        )
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", ndim, 4))
    if len(raw) - header != math.prod(shape):
        what = "truncated" if len(raw) - header < math.prod(shape) else "longer than it says"
        raise ValueError(
            f"{path} is {what}: its header announces {' x '.join(map(str, shape))} = {math.prod(shape):,} bytes, "
            f"and {len(raw) - header:,} follow: {again}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


# ---- CIFAR's pickles ----


def _read_cifar_split(folder: Path, files: tuple[str, ...], form: Format) -> Split:
    images, labels = [], []
    for name in files:
        content = read_pickle(folder / name)
        data, found = content.get("data"), content.get(form.labels_key)
        width = form.channels * form.side**2
        plain = isinstance(found, list) and all(type(label) is int and 0 <= label < 2**31 for label in found)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or not plain:
            raise ValueError(f"{folder / name} is no CIFAR batch: it should hold `data` (bytes) and {form.labels_key}")
        if data.shape[1] != width:
            raise ValueError(
                f"{folder / name} holds images of {data.shape[1]:,} bytes, {form.torchvision} has "
                f"{form.channels} x {form.side} x {form.side} = {width:,}: is it the file of another data set?"
            )
        images.append(data.reshape(-1, form.channels, form.side, form.side))
        labels.append(np.asarray(found, dtype=np.int64))
    return _checked(np.concatenate(images), np.concatenate(labels), form, folder / files[0])


def _cifar_names(folder: Path, form: Format) -> tuple[str, ...]:
    names = read_pickle(folder / form.meta).get(form.names_key)
    right = isinstance(names, list) and len(names) == form.num_classes
    if not right or not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in names):
        raise ValueError(f"{folder / form.meta} should hold {form.num_classes} class names under {form.names_key}")
    return tuple(name.replace("_", " ") for name in names)


class _Arrays(pickle.Unpickler):
    """Builds numpy arrays and plain Python values, and nothing that a stranger's file might want to run."""

    def find_class(self, module: str, name: str) -> Any:
        home = module.replace("numpy._core", "numpy.core")
        if (home, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        if (home, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (home, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which image files do not need")


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of Python 3 in protocol 2 write bytes; other codecs unpack, and one byte can become gigabytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"it wants the codec {encoding!r:.40}, which image files do not need")
    return text.encode("latin1")


def read_pickle(path: Path) -> dict[str, Any]:
    """A dict of arrays and plain values from a pickle of Python 2 or 3; ValueError for anything else."""
    try:
        content = _Arrays(io.BytesIO(read_bytes(path, MAX_BYTES)), encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a {type(content).__name__}")
    except Exception as error:  # damage shows as one of many errors
        text = " ".join(str(error).removeprefix(str(path)).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is damaged or no CIFAR file ({text}): delete it and get it anew") from None
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}


def _checked(images: np.ndarray, labels: np.ndarray, form: Format, path: Path) -> Split:
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"{path}: {len(labels):,} labels for {len(images):,} images of {form.torchvision}")
    if labels.min() < 0 or labels.max() >= form.num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"{path} holds the label {wrong}, {form.torchvision} has 0 to {form.num_classes - 1}")
    return images, labels


def _path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
