"""Shards of captioned images to a captioned folder: python -m datamodules.shards IN OUT; then data=captions data.root=OUT.

IN is a file or a folder with .tar files (WebDataset, as img2dataset writes them: 0001.jpg, 0001.txt and 0001.json belong together) or .parquet
files (as datasets on the Hugging Face hub are stored: images as bytes in a column), or the name OWNER/NAME of such a dataset on the hub. The
bytes of an image are copied as they are; whether they can be decoded, training checks. What is done is kept shard by shard, so that the command
goes on where it was stopped. A shard that ends early or cannot be read is named with the place, and what was read of it before is not used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.caption_sources import walk
from datamodules.tars import NAMES, Captions, Damaged, Place, captions_in, captions_of, mark, tar_samples
from files import parse_json, printable, replacing, write_text

Pair = tuple[bytes | None, Captions]  # an image file's bytes and its caption or captions; None where a sample has none
KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}
PARTS = "parts"  # folder of what is done: a table for each shard
REPORT_SEC = 5.0


def read_tar(path: Path) -> Iterator[Pair]:
    """The samples of a WebDataset tar, in order. Raises: Damaged."""
    with open(path, "rb") as file:

        def part(place: Place | None) -> bytes | None:
            if place is None:
                return None
            file.seek(place[0])
            return file.read(place[1])

        for sample in tar_samples(file):
            text = part(sample.text)
            yield part(sample.image), None if text is None else captions_in(text, sample.kind)


def read_parquet(path: Path) -> Iterator[Pair]:
    """The rows of a Parquet file: a column of images as bytes, or as {bytes, path}, and one of captions. Raises: Damaged, ValueError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        images = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
        captions = [name for name in NAMES if name in schema.names]
        if not images or not captions:
            raise ValueError(f"{path.name} has the columns {', '.join(schema.names)}: needed are one of images as bytes and one of {', '.join(NAMES)}")
        for batch in file.iter_batches(batch_size=64, columns=[images[0], captions[0]]):
            for one in batch.to_pylist():
                image = one[images[0]]
                yield (image.get("bytes") if isinstance(image, dict) else image), captions_of(one)
                row += 1
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"at row {row:,}: {' '.join(str(error).split())}") from None


READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {".tar": read_tar, ".parquet": read_parquet}


def shards_of(place: str) -> list[tuple[str, Path]]:
    """(name, file) of every shard of a file, a folder or a dataset on the hub, sorted. Raises: FileNotFoundError, ValueError."""
    path = Path(place).expanduser()
    if path.is_file() and path.suffix in READERS:
        return [(path.name, path)]
    if not path.exists() and place.count("/") == 1 and not place.startswith((".", "/", "~")):
        path = _download(place)
    if not path.is_dir():
        raise FileNotFoundError(f"{place}: there is no such folder, nor a .tar or .parquet file")
    found = sorted(name for name in walk(path, True) if Path(name).suffix in READERS)
    if not found:
        raise ValueError(f"{place}: no .tar or .parquet files in it")
    return [(name, path / name) for name in found]


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet", "*.tar"]))
    except Exception as error:  # the hub's errors share no base class below Exception
        why = next(iter(str(error).strip().splitlines()), "no reason given")
        raise FileNotFoundError(f"{name}: no such folder here, and the hub does not give it: {type(error).__name__}: {why}") from None


def unpack(number: int, name: str, path: Path, out: Path) -> dict[str, int]:
    """Writes the images of a shard below out/<number>/ and its table; counts of what was written and left out.

    Raises: Damaged, with what was written of it taken back.
    """
    folder, rows, counts = out / f"{number:05d}", [], {"written": 0, "without caption": 0, "without image": 0}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for image, caption in READERS[path.suffix](path):
            if not image:
                counts["without image"] += 1
            elif not caption:
                counts["without caption"] += 1
            else:
                kind = next((end for start, end in KINDS.items() if image.startswith(start)), ".jpg")
                file = folder / f"{counts['written']:06d}{kind}"
                file.write_bytes(image)
                rows.append(json.dumps({"file_name": f"{folder.name}/{file.name}", "text": caption}, ensure_ascii=False))
                counts["written"] += 1
    except (Damaged, ValueError):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        raise
    done = {"shard": name, "mark": _mark(path), **counts}
    write_text(out / PARTS / f"{number:05d}.jsonl", "\n".join([json.dumps(done), *rows]) + "\n")
    return counts


def done_before(number: int, name: str, path: Path, out: Path) -> dict[str, int] | None:
    """The counts of a shard that is unpacked already. Raises: ValueError where OUT holds another shard of this number."""
    part = out / PARTS / f"{number:05d}.jsonl"
    if not part.exists():
        return None
    with open(part, encoding="utf-8") as file:
        head = parse_json(file.readline(), str(part))
    if (head.pop("shard"), head.pop("mark")) != (name, _mark(path)):
        raise ValueError(f"{out} was made from other shards than {name}: choose another folder")
    return head


def _mark(path: Path) -> str:
    with open(path, "rb") as file:
        return mark(file)


def convert(place: str, out: Path) -> tuple[dict[str, int], list[str]]:
    """Unpacks every shard and writes OUT/metadata.jsonl; total counts, and a line for every damaged shard."""
    shards, total, damaged, began = shards_of(place), {}, [], time.monotonic()
    told = began
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    for number, (name, path) in enumerate(shards):
        try:
            counts = done_before(number, name, path, out) or unpack(number, name, path, out)
        except Damaged as error:
            damaged.append(printable(f"{name}: {error}"))
            continue
        total = {key: total.get(key, 0) + value for key, value in counts.items()}
        now = time.monotonic()
        if now - told > REPORT_SEC:
            told, left_sec = now, (now - began) / (number + 1) * (len(shards) - number - 1)
            print(f"{number + 1}/{len(shards)} shards, {total['written']:,} images, {left_sec:.0f} s left", flush=True)
    with replacing(out / "metadata.jsonl") as table, open(table, "w", encoding="utf-8") as file:
        for part in sorted((out / PARTS).glob("*.jsonl")):
            file.writelines(line + "\n" for line in part.read_text(encoding="utf-8").splitlines()[1:])
    return total, damaged


def main(arguments: list[str] | None = None) -> int:
    """Unpack; 0 where every shard was read, 1 where one was damaged or nothing could start."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.shards", description=__doc__.splitlines()[0])
    parser.add_argument("place", metavar="IN", help="a .tar or .parquet file, a folder of them, or OWNER/NAME on the Hugging Face hub")
    parser.add_argument("out", metavar="OUT", type=Path, help="the captioned folder that is made")
    options = parser.parse_args(arguments)
    try:
        total, damaged = convert(options.place, options.out)
    except (ValueError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    for line in damaged:
        print(f"damaged: {line}", file=sys.stderr)
    counts = ", ".join(f"{value:,} {key}" for key, value in total.items())
    print(f"{counts or 'nothing written'}; {len(damaged)} damaged shards; next: python train.py model=imagen data=captions data.root={options.out}")
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(main())
