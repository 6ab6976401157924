"""Captioned images from a folder of files and from tar shards: time until training can start, and images a second.

python -m benchmarks.loading [--num-images 200000 --side 128 --place FOLDER --publish]

The same JPEGs lie in a folder with a table of captions and in shards of 1,000. Both are read by the data modules of this repository in
one process, decoding and resizing to 64 pixels included, in turns. "Not in memory" first asks the system to drop the files from its
memory. With --publish the table goes into docs/scale.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from datamodules.base import ImageDataModule
from datamodules.captions import CaptionsDataModule
from datamodules.tar_shards import ShardsDataModule

PAGE = REPO / "docs" / "scale.md"
PER_SHARD, DIFFERENT = 1000, 500
BATCH, SIZE = 64, 64
WAYS: dict[str, Callable[[Path, Path], ImageDataModule]] = {
    "a folder of files": lambda place, cache: CaptionsDataModule(str(place / "files"), SIZE, BATCH, cache_in_memory=False, cache_dir=str(cache)),
    "shards, all mixed": lambda place, cache: ShardsDataModule(str(place / "shards"), SIZE, BATCH, cache_dir=str(cache)),
    "shards, 32 mixed": lambda place, cache: ShardsDataModule(str(place / "shards"), SIZE, BATCH, mixed_shards=32, cache_dir=str(cache)),
}


def make(place: Path, num_images: int, side: int) -> None:
    """Writes the files and the shards; images are DIFFERENT ones over and over, captions are all different."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    (place / "files").mkdir()
    (place / "shards").mkdir()
    with open(place / "files" / "metadata.jsonl", "w", encoding="utf-8") as table:
        for begin in range(0, num_images, PER_SHARD):
            (place / "files" / f"{begin // PER_SHARD:05d}").mkdir()
            with tarfile.open(place / "shards" / f"{begin // PER_SHARD:05d}.tar", "w") as shard:
                for i in range(begin, min(num_images, begin + PER_SHARD)):
                    name, caption = f"{begin // PER_SHARD:05d}/{i:08d}.jpg", f"picture number {i}"
                    (place / "files" / name).write_bytes(images[i % DIFFERENT])
                    table.write(json.dumps({"file_name": name, "text": caption}) + "\n")
                    for end, content in ((".jpg", images[i % DIFFERENT]), (".txt", caption.encode())):
                        info = tarfile.TarInfo(f"{i:08d}{end}")
                        info.size = len(content)
                        shard.addfile(info, io.BytesIO(content))
    os.sync()  # what is not yet on the disk cannot be dropped from memory


def forget(place: Path) -> None:
    """Asks the system to drop the files' contents from its memory."""
    for folder, _, names in os.walk(place):
        for name in names:
            file = os.open(f"{folder}/{name}", os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def start_sec(way: str, place: Path, cache: Path) -> float:
    """Seconds until the data can be read."""
    begin = time.perf_counter()
    WAYS[way](place, cache).setup()
    return time.perf_counter() - begin


def images_a_second(data: ImageDataModule, first: int, batches: int) -> float:
    """From some batch of the run on, so that no round reads the batches of another."""
    data.num_batches, data.start_batch = first + batches, first
    loader = data.train_dataloader()
    begin = time.perf_counter()
    count = sum(len(batch["caption"]) for batch in loader)
    return count / (time.perf_counter() - begin)


def measure(place: Path, rounds: int, batches: int) -> list[dict[str, Any]]:
    lines, modules = [], {}
    for way in WAYS:
        cache = place / "cache" / way.split(",")[0].replace(" ", "_")
        forget(place)
        first = start_sec(way, place, cache) if not cache.exists() else lines[-1]["first_start_sec"]
        lines.append({"way": way, "first_start_sec": first, "next_start_sec": start_sec(way, place, cache), "warm": [], "cold": []})
        modules[way] = WAYS[way](place, cache)
        modules[way].setup()
    for i in range(rounds):
        for line in lines:
            forget(place)
            line["cold"].append(images_a_second(modules[line["way"]], i * batches, batches))
            line["warm"].append(images_a_second(modules[line["way"]], i * batches, batches))
        print(f"round {i + 1} of {rounds}", flush=True)
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    head = ["", "first start, s", "next start, s", "images a second", "of the folder's", "not in memory", "of the folder's"]
    rows, base = [], lines[0]
    for line in lines:
        ratios = [median(a / b for a, b in zip(line[kind], base[kind])) for kind in ("warm", "cold")]
        rows.append([
            line["way"], f"{line['first_start_sec']:.1f}", f"{line['next_start_sec']:.2f}", f"{median(line['warm']):,.0f}", f"{ratios[0]:.2f}",
            f"{median(line['cold']):,.0f}", f"{ratios[1]:.2f}",
        ])  # fmt: skip
    return markdown_table(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__.splitlines()[0])
    for flag, default, text in (
        ("--num-images", 200_000, "pairs"), ("--side", 128, "of the stored images, in pixels"), ("--rounds", 5, "turns of each way"), ("--batches", 60, "batches of 64 a turn"),
    ):  # fmt: skip
        parser.add_argument(flag, type=positive(int), default=default, help=f"{text} (default {default})")
    parser.add_argument("--place", type=Path, help="where the files are written for a while: the disk that is measured (default: the system's)")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/scale.md")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        print("writing the images", flush=True)
        make(Path(folder), args.num_images, args.side)
        lines = measure(Path(folder), args.rounds, args.batches)
        print("removing the images", flush=True)
    settings = {"num_images": args.num_images, "side": args.side, "rounds": args.rounds, "batches": args.batches}
    result = {"benchmark": "loading", "settings": settings, "machine": machine(torch.get_num_threads()), **provenance("torch", "pillow"), "lines": lines}
    write_json(RESULTS / "loading.json", result)
    print(table(lines))
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "loading", f"\n{table(lines)}\n\n{describe(result)}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
