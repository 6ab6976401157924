"""Small files in the formats of MNIST and CIFAR, for tests of whatever reads or trains on them."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np

from datamodules.class_files import FORMATS


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> None:
    """An IDX file of bytes, as MNIST has them."""
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    raw = header + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * compress).write_bytes(gzip.compress(raw) if compress else raw)


def images_of(labels: np.ndarray, side: int, channels: int, seed: int) -> np.ndarray:
    """uint8 (N, C, S, S): a bright bar whose place tells the class, with noise, so that a class can be learnt."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 40, (len(labels), channels, side, side), dtype=np.uint8)
    for image, label in zip(images, labels):
        start = 2 + 2 * (int(label) % 10)
        image[:, start : start + 3, 4 : side - 4] += 150
    return images


def write_class_data(root: Path, name: str, num_train: int = 40, num_test: int = 20, compress: bool = False) -> Path:
    """Files of a data set in torchvision's layout below `root`; returns their folder."""
    form = FORMATS[name]
    folder = root / form.folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    if form.classes:
        for files, count, seed in ((form.train_files, num_train, 0), (form.test_files, num_test, 1)):
            labels = np.arange(count) % form.num_classes
            write_idx(folder / files[0], images_of(labels, 28, 1, seed)[:, 0], compress)
            write_idx(folder / files[1], labels, compress)
        return folder
    files = [*form.train_files, *form.test_files]
    counts = [-(-num_train // len(form.train_files))] * len(form.train_files) + [num_test]
    for seed, (file, count) in enumerate(zip(files, counts)):
        labels = (np.arange(count) + seed) % form.num_classes
        data = images_of(labels, 32, 3, seed).reshape(count, -1)
        content = {"data": data, form.labels_key: labels.tolist()}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"thing_{i}" for i in range(form.num_classes)]
    (folder / form.meta).write_bytes(pickle.dumps({form.names_key: names}, protocol=2))
    return folder


def small_run(model: str, tmp_path: Path, run: str, *more: str) -> list[str]:
    """Overrides of train.py for seconds of training on what `write_class_data` put below tmp_path / "data"."""
    return [
        f"model={model}", "data=fashion_mnist", "trainer=cpu", "trainer.precision=32-true", "logger.wandb=null", "callbacks.progress=null",
        "data.batch_size=20", "data.num_val=40", "callbacks.metrics_log.every_steps=5",
        "callbacks.checkpoint.every_sec=null", "model.lr_schedule=null", f"run_dir={tmp_path / run}",
        f"paths.cache={tmp_path}", *more,
    ]  # fmt: skip
