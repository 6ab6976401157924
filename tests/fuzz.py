"""Damaged and hostile files, the same for the same seed: images, tables of captions, results.

Every generator is endless in kinds and bounded by `n`, so that tests take a few and a campaign takes thousands:

    fuzzed_images(seed, n)    -> (file name, bytes)
    fuzzed_metadata(seed, n)  -> (file name, bytes): what an image folder's table may be
    fuzzed_results(seed, n, data) -> (what was done, a changed copy of what metrics.json holds)
"""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("a.png", "b.png", "c/d.png")  # images that tables of captions name
OUTSIDE = ("/full/outside.png", "../outside.png", "c/../../outside.png", "link.png", "linked/secret.png")


@lru_cache
def images() -> tuple[tuple[str, bytes], ...]:
    """Sound images in every format and most modes."""
    pixels = np.random.default_rng(0).integers(0, 256, (18, 22, 4), dtype=np.uint8)
    rgba, rgb = Image.fromarray(pixels), Image.fromarray(pixels[:, :, :3])
    grey, palette = rgb.convert("L"), rgb.convert("P")
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("a.png", rgb, "PNG", {}), ("b.png", rgba, "PNG", {}), ("c.png", palette, "PNG", {"transparency": 0}),
        ("d.png", deep, "PNG", {}), ("e.png", rgb, "PNG", {"exif": exif}), ("f.png", rgb, "PNG", frames),
        ("a.jpg", rgb, "JPEG", {}), ("b.jpg", rgb, "JPEG", {"progressive": True, "exif": exif}),
        ("c.jpg", grey, "JPEG", {}), ("d.jpg", rgb.convert("CMYK"), "JPEG", {}), ("e.mpo", rgb, "MPO", frames),
        ("a.webp", rgb, "WEBP", {}), ("b.webp", rgba, "WEBP", {"lossless": True}), ("c.webp", rgb, "WEBP", frames),
        ("a.gif", palette, "GIF", {}), ("b.gif", rgb, "GIF", frames), ("a.bmp", rgb, "BMP", {}),
        ("b.bmp", palette, "BMP", {}), ("a.tif", rgb, "TIFF", {}), ("b.tif", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("c.tif", deep, "TIFF", {}), ("d.tif", rgb, "TIFF", frames), ("a.ppm", rgb, "PPM", {}),
        ("a.jp2", rgb, "JPEG2000", {}), ("a.avif", rgb, "AVIF", {}),
    ]  # fmt: skip
    found = []
    for name, image, kind, options in kinds:
        buffer = io.BytesIO()
        more = {"append_images": [one.copy() for one in frames["append_images"]]} if "save_all" in options else {}
        image.copy().save(buffer, kind, **options | more)  # saving leaves marks on an image that other formats trip over
        found.append((name, buffer.getvalue()))
    return tuple(found)


def fuzzed_images(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """`n` mutated images, formats in turn; names are all different and end as the format's names do."""
    rng, sound = random.Random(f"images {seed}"), images()
    for i in range(n):
        name, content = sound[i % len(sound)]
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            content = damaged(rng, content, rng.choice(sound)[1])
        yield f"{i:06d}-{name}", content


def damaged(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """One kind of damage to some bytes; `other` is what may be spliced in."""
    data, size = bytearray(content), max(len(content), 1)
    at, more = rng.randrange(size), rng.randrange(1, 64)
    kind = rng.randrange(9)
    if kind == 0:  # bits of a few bytes, near the head more often than not
        for _ in range(rng.randrange(1, 8)):
            place = rng.randrange(min(size, 64) if rng.random() < 0.6 else size)
            if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:  # the largest and smallest numbers where lengths and sizes stand
        number = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff", b"\0\0\x40\0", b"\x80"))
        place = min(at, 80) if rng.random() < 0.7 else at
        data[place : place + len(number)] = number
    elif kind == 3:
        data[at : at + more] = bytes(more)
    elif kind == 4:
        del data[at : at + more]
    elif kind == 5:
        data[at:at] = data[at : at + more] * rng.randrange(1, 40)
    elif kind == 6:
        data = data[:at] + other[rng.randrange(len(other)) :]
    elif kind == 7:
        data[at:at] = bytes(rng.randrange(256) for _ in range(more))
    else:
        data += rng.choice((b"\xff\xda" * 300, b"\0" * 1000, b"<html>", bytes(other)))
    return bytes(data)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 7, 1.5, 1e308, float("nan"), float("inf"), 10**30, "", " ", "x", "\0", "\ud800", "é\u202e", "\x1b[2J",
    "x" * 5000, [], [[]], ["x", None], [["x"]], {}, {"a": {"b": []}}, [1, 2], *OUTSIDE, "a.png", ".", "..", "a" * 300 + ".png",
)  # fmt: skip


def fuzzed_metadata(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """`n` damaged tables of captions that name NAMES, in every layout in turn; `captions.json` and the like are named by
    the user, `metadata.…` are found.
    """
    rng = random.Random(f"metadata {seed}")
    for i in range(n):
        rows: list[Any] = [{"file_name": name, "text": [f"a picture of {name}", "one"]} for name in NAMES]
        name = ("metadata.jsonl", "metadata.csv", "rows.json", "captions.json", "metadata.tsv", "metadata.parquet")[i % 6]
        if name == "captions.json":
            entries = [{"image_id": k, "id": k, "caption": f"picture {k}"} for k in range(3)]
            named = [{"id": k, "file_name": file} for k, file in enumerate(NAMES)]
            value: Any = {"info": {}, "images": named, "annotations": entries}
        else:
            value = rows
        if rng.random() < 0.7 and name != "metadata.parquet":
            value = changed(rng, value)[1]
        content = written(name, value, rng)
        if rng.random() < 0.5 or name == "metadata.parquet":
            content = damaged_text(rng, content)
        yield name, content


def written(name: str, value: Any, rng: random.Random) -> bytes:
    """Rows or COCO's entries in the format that the name says."""
    rows = value if isinstance(value, list) else [value]
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif name.endswith(".json"):
        text = json.dumps(value)
    elif name.endswith(".parquet"):
        return parquet(rng)
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        cells = [(row.get("file_name"), row.get("text")) if isinstance(row, dict) else (row, row) for row in rows]
        lines = [("file_name", "text"), *cells]
        text = "".join(mark.join('"' + str(cell).replace('"', '""') + '"' for cell in line) + "\n" for line in lines)
    return text.encode("utf-8", "surrogatepass")


def parquet(rng: random.Random) -> bytes:
    """Three rows, of the right types more often than not; nothing but a name where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return b"PAR1"
    columns = {"file_name": list(NAMES), "text": rng.choice((["x"] * 3, [["x"]] * 3, [1, 2, 3], [None] * 3, [b"x"] * 3))}
    if rng.random() < 0.3:
        columns["file_name"] = rng.choice(([1, 2, 3], [{"bytes": b"x", "path": "a.png"}] * 3, list(OUTSIDE[:3])))
    if rng.random() < 0.2:
        columns[rng.choice(("image", "caption"))] = columns.pop(rng.choice(("file_name", "text")))
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def damaged_text(rng: random.Random, content: bytes) -> bytes:
    """Damage that tables suffer: lost quotes, other encodings, NUL bytes, cuts; or that of any bytes."""
    kind = rng.randrange(8)
    at = rng.randrange(max(len(content), 1))
    if kind == 0:
        places = [i for i, byte in enumerate(content) if byte in b"\"'"] or [0]
        gone = rng.choice(places)
        return content[:gone] + content[gone + 1 :]
    if kind == 1:
        return content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "utf-16-be")))
    if kind == 2:
        return content[:at] + rng.choice((b"\0", b"\xff", b'"', b"\r", b"\n", b"\\", b"{", b"]", b"\xe9", b",")) + content[at:]
    if kind == 3:
        return content.replace(b"\n", b"\r")
    if kind == 4:
        return content[:at] + rng.choice((b"null\n", b"[" * 5000, b'{"a":' * 3000, b"1" * 6000, b'"' + b"x" * 200_000)) + content[at:]
    if kind == 5:
        return content + content[at:]
    return damaged(rng, content, content)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every entry of a nested value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def changed(rng: random.Random, value: Any) -> tuple[str, Any]:
    """A copy with one entry replaced, removed, repeated or under another key, and what was done."""
    found = copy.deepcopy(value)
    path = rng.choice([p for p in places(found) if p] or [()])
    holder: Any = found
    for key in path[:-1]:
        holder = holder[key]
    kind = rng.choice(("replace", "replace", "replace", "remove", "rename"))
    if not path:
        return "all replaced", rng.choice(VALUES)
    if kind == "remove":
        del holder[path[-1]]
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice(("x", "", "\x1b", "../x", "a" * 300))] = holder.pop(path[-1])
    else:
        holder[path[-1]] = new = copy.deepcopy(rng.choice(VALUES))
        kind = f"replaced by {new!r:.40}"
    return f"{'.'.join(map(str, path))} {kind}", found


def fuzzed_results(seed: int, n: int, data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """`n` copies of what metrics.json holds with one to three entries that are not what they should be."""
    rng = random.Random(f"results {seed}")
    for _ in range(n):
        done, found = changed(rng, data)
        for _ in range(rng.choice((0, 0, 1, 2))):
            more, found = changed(rng, found)
            done += f"; {more}"
        yield done, found
