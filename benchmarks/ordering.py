"""Do the metrics order damage as a person would? Fashion-MNIST, blurred, noisy, with classes missing, copied.

python -m benchmarks.ordering [--root DATA --n 2000 --input-size 64 --classifier RUN]

Half A of the training images is the reference; half B, the test images and all that is made of B are judged against
it. Writes the JSON, the table in docs/ordering.md and the picture beside it. Features are kept in --cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from PIL import Image, ImageDraw, ImageFont

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.corruptions import CHAINS, Labelled, image_sets
from benchmarks.tables import describe, fill
from datamodules.class_files import load
from datamodules.classes import cut
from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import Evaluator
from evaluation.metrics.frechet import FrechetDistance
from evaluation.metrics.kernel_distance import KernelDistance
from evaluation.metrics.precision_recall import PRDC
from evaluation.metrics.sliced_wasserstein import SlicedWasserstein
from evaluation.pictures.captioned_grid import to_pil

PAGE, PICTURE = REPO / "docs" / "ordering.md", REPO / "docs" / "images" / "ordering.png"
DISTANCES = ("fd", "kd", "sw2")  # grow with damage
SHARES = ("precision", "recall", "density", "coverage")
Rows = dict[str, dict[str, float]]  # set -> metric -> value


def fashion_mnist(root: Path) -> Labelled:
    """The two halves of the training images and the test images."""
    (images, labels), (test_images, test_labels), _ = load("fashion_mnist", root)
    image_u8, label = torch.from_numpy(images.copy()), torch.from_numpy(labels)
    a, b = cut(len(image_u8), len(image_u8) // 2, seed=0)
    test = torch.from_numpy(test_images.copy()), torch.from_numpy(test_labels)
    return Labelled((image_u8[a], label[a]), (image_u8[b], label[b]), test)


def evaluators(extractor: FeatureExtractor) -> list[Evaluator]:
    """The metrics in one feature space, without controls: here the sets are each other's."""
    kinds = (FrechetDistance, KernelDistance, SlicedWasserstein, PRDC)
    return [kind(extractor, controls=False) for kind in kinds]


def measure(data: Labelled, n: int, judges: Sequence[Evaluator], names: Sequence[str] | None = None) -> Rows:
    """Every metric of every set (or those of `names`) against half A."""
    sets = image_sets(data, n)
    return measure_sets(data.reference(n), {name: sets[name] for name in names or sets}, judges)


def measure_sets(reference: Tensor, sets: dict[str, Callable[[], Tensor]], judges: Sequence[Evaluator]) -> Rows:
    """Every metric of every set, uint8 (n, C, H, W), against a reference of as many images."""
    rows: Rows = {}
    for name, make in sets.items():
        image_u8, began = make(), time.perf_counter()
        row: dict[str, float] = {}
        for judge in judges:
            judge.reset()
            judge.update(image_u8, image_u8, None, reference=reference)
            row |= judge.compute()
        rows[name] = {key: value for key, value in row.items() if not key.endswith(("_low", "_high", "_n"))}
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return rows


def expectations(rows: Rows, space: str) -> list[dict[str, Any]]:
    """What must hold in a feature space, each with whether it does; sets that were not measured are left out."""
    found = []

    def expect(text: str, holds: bool) -> None:
        found.append({"expected": text, "holds": bool(holds)})

    for chain in CHAINS:
        there = [name for name in chain if name in rows]
        for metric in (f"{d}_{space}" for d in DISTANCES):
            values = [rows[name][metric] for name in there]
            expect(f"{metric}: {' < '.join(there)}", all(x < y for x, y in zip(values, values[1:])))
    kinds = [name for name in ("B", "8 of 10 classes", "5 of 10 classes", "1 of 10 classes") if name in rows]
    values = [rows[name][f"coverage_{space}"] for name in kinds]
    expect(f"coverage_{space}: {' > '.join(kinds)}", all(x > y for x, y in zip(values, values[1:])))
    if "test" in rows:
        b, test = (rows[name][f"fd_{space}"] for name in ("B", "test"))
        expect(f"fd_{space}: test within 10 % of B", abs(test / b - 1) < 0.1)
    if "copies x10" in rows:
        copies = rows["copies x10"]
        expect(f"recall_{space}: copies x10 below 0.05", copies[f"recall_{space}"] < 0.05)
        expect(f"coverage_{space}: copies x10 below 0.5", copies[f"coverage_{space}"] < 0.5)
    return found


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: distances, their ratio to B's, and the four shares, for each feature space."""
    parts = []
    for space, block in result["spaces"].items():
        rows: Rows = block["rows"]
        head = ["set", "FD", "× B", "KD × 1000", "sW2", "× B", *(s.capitalize() for s in SHARES)]
        lines = []
        for name, row in rows.items():
            fd, kd, sw2 = (row[f"{d}_{space}"] for d in DISTANCES)
            ratios = (fd / rows["B"][f"fd_{space}"], sw2 / rows["B"][f"sw2_{space}"])
            shares = [f"{row[f'{share}_{space}']:.3f}" for share in SHARES]
            distances = [digits(fd), f"{ratios[0]:.2f}", digits(1000 * kd), digits(sw2), f"{ratios[1]:.1f}"]
            lines.append([name, *distances, *shares])
        broken = [e["expected"] for e in block["expectations"] if not e["holds"]]
        count, but = len(block["expectations"]), ": not " + "; ".join(broken) if broken else ""
        verdict = f"{count - len(broken)} of {count} expected orderings hold{but}"
        title = f"### {space}" + (f" ({block['resize']})" if block["resize"] else "")
        parts.append(f"{title}\n\n{markdown_table(head, lines)}\n\n{verdict}.")
    return "\n\n".join(parts)


def digits(value: float) -> str:
    """Four significant digits, without exponents."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 0.01 else f"{value:.4f}"


def strip(data: Labelled, n: int) -> Image.Image:
    """A few images of every set, with its name; of copies different ones."""
    sets = {name: make() for name, make in image_sets(data, n).items()}
    return tiles({name: x[:: max(1, n // 10)] if "copies" in name else x for name, x in sets.items()}, zoom=2)


def tiles(sets: dict[str, Tensor], columns: int = 3, shown: int = 6, zoom: int = 1) -> Image.Image:
    """The first images uint8 (n, C, H, W) of every set, with its name."""
    side = next(iter(sets.values())).shape[-1] * zoom
    width, height, font = shown * side + 12, side + 22, ImageFont.load_default(12)
    sheet = Image.new("RGB", (columns * width, -(-len(sets) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, image_u8) in enumerate(sets.items()):
        x, y = 6 + i % columns * width, i // columns * height
        draw.text((x, y + 3), name, fill="black", font=font)
        for j, image in enumerate(image_u8[:shown]):
            tile = to_pil(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(tile, (x + j * side, y + 20))
    return sheet


def benchmark(
    root: Path, n: int, input_size: int | None, classifier: str | None, cache: Path | None
) -> tuple[dict[str, Any], Labelled]:
    """All sets in EfficientNet-Lite0's features, and in a classifier's where a checkpoint is given."""
    from evaluation.extractors.classifier import ClassifierFeatures
    from evaluation.extractors.lite0 import EfficientNetLite0
    from runtime.checkpoint import load_module

    data = fashion_mnist(root)
    result: dict[str, Any] = {
        "benchmark": "ordering",
        "settings": {"data": "fashion_mnist", "images per set": n, "input_size": input_size or "auto"},
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "torchvision", "timm", "pillow"),
        "spaces": {},
    }
    extractors: list[FeatureExtractor] = [EfficientNetLite0(input_size, cache_dir=cache)]
    if classifier:
        extractors.append(ClassifierFeatures(load_module, classifier, cache_dir=cache))
    for extractor in extractors:
        rows = measure(data, n, evaluators(extractor))
        facts = extractor.describe()
        result["spaces"][extractor.id] = {
            "resize": facts["resize"],
            "sha256": facts["extractor_sha256"],
            "rows": rows,
            "expectations": expectations(rows, extractor.id),
        }
    return result, data


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ordering", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=REPO / ".cache" / "data", help="folder of Fashion-MNIST")
    parser.add_argument("--n", type=positive(int), default=2000, help="images per set (default 2000)")
    parser.add_argument("--input-size", type=int, default=64, help="of EfficientNet-Lite0 (default 64; 0: the images')")
    parser.add_argument("--classifier", help="a run of model=classifier, to judge in its features too")
    parser.add_argument("--cache", type=Path, default=REPO / ".cache" / "features", help="where features are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "ordering.json", help="where the JSON goes")
    args = parser.parse_args()
    result, data = benchmark(args.root, args.n, args.input_size or None, args.classifier, args.cache)
    write_json(args.out, result)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    strip(data, args.n).save(PICTURE, optimize=True)
    PAGE.write_text(fill(PAGE.read_text(), "ordering", f"\n{table(result)}\n\n{describe(result)}\n\n", PAGE.name))
    print(f"\n{table(result)}\n\n{args.out}; {PAGE}; {PICTURE}")


if __name__ == "__main__":
    run(main)
