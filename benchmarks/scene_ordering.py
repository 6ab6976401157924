"""Does a distance order damage of captioned scenes as a person would? Invisible stains, blur, noise, wrong colours, missing kinds.

python -m benchmarks.scene_ordering [--n 2000 --clip clip-scenes-judge]

A set of scenes is the reference; scenes of other specs and seeds, and what is made of them, are judged against it, in the
features of the CLIP that judges scenes and in EfficientNet-Lite0's. Writes the JSON and the table in docs/ordering.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.corruptions import blur, generator, noise, to_bytes
from benchmarks.ordering import Rows, digits, measure_sets, tiles
from benchmarks.tables import describe, fill
from datamodules.scenes import scene_spec
from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.frechet import FrechetDistance
from rng.hashing import stable_hash
from scenes.grammar import SceneSpec
from scenes.render import render

PAGE, PICTURE = REPO / "docs" / "ordering.md", REPO / "docs" / "images" / "ordering_scenes.png"
# From what nobody sees to what anybody sees; each step must be further from the reference than all of the step before.
STEPS: tuple[tuple[str, ...], ...] = (
    ("other scenes",),
    ("stains of 2 levels",),
    ("blur 0.4",),
    ("blur 1.5", "noise 0.1"),
    ("hues turned by 30°", "circles alone", "no words and no pairs"),
)


def scenes(n: int, tag: str, size: int, keep: Callable[[SceneSpec], bool] = lambda _: True) -> Tensor:
    """n scenes uint8 (n, 3, size, size) of the preset `scenes`, of those specs that `keep` wants."""
    specs = (scene_spec("scenes", "train", tag, 0, i) for i in count())
    chosen = (spec for spec in specs if keep(spec))
    images = (render(next(chosen), stable_hash(tag, i), size)[0] for i in range(n))
    return torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images])


def stains(image_u8: Tensor, levels: float) -> Tensor:
    """Smooth stains, an eighth of the side wide, of so many levels of 255 (standard deviation)."""
    coarse = torch.randn(len(image_u8), 3, 8, 8, generator=generator())
    return to_bytes(image_u8 + levels * F.interpolate(coarse, size=image_u8.shape[-2:], mode="bicubic"))


def turned(image_u8: Tensor, degrees: float) -> Tensor:
    """Every hue turned on the colour wheel; greys stay."""
    found = []
    for image in image_u8:
        hsv = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("HSV"))
        hsv[..., 0] += np.uint8(round(degrees / 360 * 256))  # 256 is the whole wheel, and bytes wrap
        found.append(torch.from_numpy(np.array(Image.fromarray(hsv, "HSV").convert("RGB"))).permute(2, 0, 1))
    return torch.stack(found)


def image_sets(n: int, size: int) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function that gives n images."""
    others = scenes(n, "others", size)
    return {
        "other scenes": lambda: others,
        "stains of 2 levels": partial(stains, others, 2),
        "blur 0.4": partial(blur, others, 0.4),
        "blur 1.5": partial(blur, others, 1.5),
        "noise 0.1": partial(noise, others, 0.1),
        "hues turned by 30°": partial(turned, others, 30),
        "circles alone": partial(scenes, n, "circles", size, only_circles),
        "no words and no pairs": partial(scenes, n, "singles", size, lambda spec: spec.kind == "single"),
    }


def only_circles(spec: SceneSpec) -> bool:
    """Whether all objects of a scene are circles."""
    return bool(spec.groups) and all(group.shape == "circle" for group in spec.groups)


def orderings(rows: Rows, metric: str) -> list[dict[str, Any]]:
    """Each step of STEPS against the next: the worst of the one must be nearer than the best of the other."""
    found = []
    for nearer, further in zip(STEPS, STEPS[1:]):
        most, least = (f(rows[name][metric] for name in names) for f, names in ((max, nearer), (min, further)))
        found.append({"expected": f"{' and '.join(nearer)} < {' and '.join(further)}", "holds": most < least})
    return found


def table(result: dict[str, Any]) -> str:
    """The distances as Markdown, a set a line, and which orderings hold."""
    spaces, first = result["spaces"], next(iter(result["spaces"].values()))
    head = ["set", *(part for name in spaces for part in (f"fd_{name}", "× other scenes"))]
    lines = []
    for name in first["rows"]:
        values = [(rows[name][key], rows["other scenes"][key]) for key, rows in ((f"fd_{s}", b["rows"]) for s, b in spaces.items())]
        lines.append([name, *(part for value, floor in values for part in (digits(value), f"{value / floor:.1f}"))])
    verdicts = []
    for space, block in spaces.items():
        broken = [e["expected"] for e in block["orderings"] if not e["holds"]]
        total = len(block["orderings"])
        verdicts.append(f"fd_{space}: {total - len(broken)} of {total} orderings hold" + (f"; not {'; '.join(broken)}" if broken else "") + ".")
    return f"{markdown_table(head, lines)}\n\n" + "\n\n".join(verdicts)


def benchmark(extractors: Sequence[FeatureExtractor], n: int, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The distances of all sets in all features, and the images."""
    reference = scenes(n, "reference", size)
    images = {name: make() for name, make in image_sets(n, size).items()}
    result: dict[str, Any] = {
        "benchmark": "scene_ordering",
        "settings": {"data": "scenes", "image size": size, "images per set": n},
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "timm", "pillow"),
        "spaces": {},
    }
    for extractor in extractors:
        rows = measure_sets(reference, {name: lambda x=x: x for name, x in images.items()}, [FrechetDistance(extractor, controls=False)])
        result["spaces"][extractor.id] = {
            "rows": rows, "orderings": orderings(rows, f"fd_{extractor.id}"), "sha256": extractor.describe()["extractor_sha256"],
        }  # fmt: skip
    return result, images


def main(argv: Sequence[str] | None = None) -> None:
    from evaluation.extractors.lite0 import EfficientNetLite0
    from evaluation.extractors.trained_clip import TrainedCLIP
    from runtime.checkpoint import load_module

    parser = argparse.ArgumentParser(prog="python -m benchmarks.scene_ordering", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=positive(int), default=2000, help="images per set (default 2000)")
    parser.add_argument("--size", type=positive(int), default=64, help="of the images (default 64)")
    parser.add_argument("--clip", default="clip-scenes-judge", help="a run, a checkpoint or a name in zoo/ of model=clip")
    parser.add_argument("--out", type=Path, default=RESULTS / "scene_ordering.json", help="where the JSON goes")
    args = parser.parse_args(argv)
    result, images = benchmark([TrainedCLIP(load_module, args.clip), EfficientNetLite0()], args.n, args.size)
    write_json(args.out, result)
    tiles(images).save(PICTURE, optimize=True)
    PAGE.write_text(fill(PAGE.read_text(), "scene_ordering", f"\n{table(result)}\n\n{describe(result)}\n\n", PAGE.name))
    print(f"\n{table(result)}\n\n{args.out}; {PAGE}; {PICTURE}")


if __name__ == "__main__":
    run(main)
