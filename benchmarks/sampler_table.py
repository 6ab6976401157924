"""Samplers and their steps on one trained diffusion model: Fréchet distance, network calls and seconds an image.

python -m benchmarks.sampler_table --ckpt RUN [--n 2000 --steps 5 10 20 50 100 250 --samplers ddim heun …] [data.root=…]

Every cell draws the images of the same seeds. Cells are measured in the order of their network calls and each is written
at once, so that the command can be stopped and given again. Fills the table of docs/diffusion_models.md where that page has a
place for it, and draws Fréchet distance against network calls.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import (
    REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json,
)  # fmt: skip
from benchmarks.tables import describe, fill
from contracts import Request
from diffusion import samplers
from runtime.bfloat16 import sampling_precision
from evaluation.extractors.base import FeatureExtractor
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.images import to_uint8
from runtime.build import instantiate_untrusted
from runtime.checkpoint import load_module

PAGE, PICTURE = REPO / "docs" / "diffusion_models.md", REPO / "docs" / "images" / "diffusion_samplers.png"
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": samplers.ddpm,
    "ddpm_large": partial(samplers.ddpm, variance="large"),
    "ddim": samplers.ddim,
    "heun": samplers.heun,
    "edm": samplers.edm,
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_2m_sde": partial(samplers.dpmpp_2m, eta=1.0),
    "dpmpp_2m_eta1.3": partial(samplers.dpmpp_2m, eta=1.3),
    "unipc": samplers.unipc,
}
TWO_CALLS = ("heun", "edm")  # a step, but the last one
ANCESTRAL = ("ddpm", "ddpm_large")
STEPS = (5, 10, 20, 50, 100, 250)
FEW_CALLS, MARGIN = 20, 1.03  # of the sentence: so few calls, so near to ancestral sampling
Cell = dict[str, float]


def calls(sampler: str, steps: int) -> int:
    """Network calls for an image."""
    return 2 * steps - 1 if sampler in TWO_CALLS else steps


def cells(names: Sequence[str], steps: Sequence[int], most: int) -> list[tuple[str, int]]:
    """(sampler, steps) with at most so many network calls, the cheap ones first."""
    found = [(name, count) for name in names for count in steps if calls(name, count) <= most]
    return sorted(found, key=lambda cell: (calls(*cell), names.index(cell[0])))


# ---- one cell ----


def drawn(module: Any, name: str, steps: int, n: int, batch: int, bf16: bool) -> tuple[Tensor, Cell]:
    """n images uint8 and what they cost an image: network calls, seconds of the clock and of the processor."""
    images, seen = [], 0

    def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal seen
        seen += len(args[0] if args else next(iter(kwargs.values())))

    handle = module.stage.net.register_forward_pre_hook(count, with_kwargs=True)
    began, used = time.perf_counter(), time.process_time()
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            for start in range(0, n, batch):
                seeds = list(range(start, min(start + batch, n)))
                labels = None if module.conditioning == "none" else [i % 10 for i in seeds]
                request = Request(len(seeds), labels=labels)
                image = module.sample(request, seeds=seeds, sampler=SAMPLERS[name], num_steps=steps)
                images.append(to_uint8(image.float()))
    finally:
        handle.remove()
    sec, cpu_sec = (time.perf_counter() - began) / n, (time.process_time() - used) / n
    return torch.cat(images), {"calls": seen / n, "sec_per_image": sec, "cpu_sec_per_image": cpu_sec}


def measured(
    module: Any, real: Tensor, extractor: FeatureExtractor, todo: Sequence[tuple[str, int]], known: dict[str, Cell],
    keep: Callable[[], None], *, n: int, batch: int, bf16: bool,
) -> None:  # fmt: skip
    """Adds the cells that are not known yet to `known`, calling `keep` after each; says how much time is left."""
    missing = [cell for cell in todo if key(*cell) not in known]
    if len(missing) < len(todo):
        print(f"{len(todo) - len(missing)} of {len(todo)} cells are measured already", file=sys.stderr)
    done, left, began = 0, sum(calls(*cell) for cell in missing), time.perf_counter()
    for name, steps in missing:
        image_u8, cell = drawn(module, name, steps, n, batch, bf16)
        cell["fd"] = frechet_of_features(real, extractor(image_u8))
        known[key(name, steps)] = cell
        keep()
        done, left = done + calls(name, steps), left - calls(name, steps)
        minutes = (time.perf_counter() - began) / done * left / 60
        print(
            f"{name}, {steps} steps: Fréchet distance {cell['fd']:.2f}, {cell['calls']:.0f} calls, "
            f"{cell['sec_per_image']:.3f} s an image; about {minutes:.1f} min left",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def key(name: str, steps: int) -> str:
    """Name of a cell in the JSON."""
    return f"{name}/{steps}"


# ---- what is made of the cells ----


def sentence(found: dict[str, Cell]) -> str:
    """Whether a sampler with few calls comes as near as wanted to the better ancestral sampler at most steps.

    Words and verdict come from the numbers; where one side is missing, it says so.
    """
    by_steps = {name: {int(k.split("/")[1]) for k in found if k.split("/")[0] == name} for name in ANCESTRAL}
    most = max((max(counts) for counts in by_steps.values() if counts), default=None)
    few = {k: cell for k, cell in found.items() if cell["calls"] <= FEW_CALLS and k.split("/")[0] not in ANCESTRAL}
    if most is None or not few:
        return f"Not measured: ancestral sampling, or another sampler with at most {FEW_CALLS} network calls."
    reference = min((key(name, most) for name in ANCESTRAL if most in by_steps[name]), key=lambda k: found[k]["fd"])
    best = min(few, key=lambda k: few[k]["fd"])
    ratio = found[best]["fd"] / found[reference]["fd"]
    verdict = "within" if ratio <= MARGIN else "not within"
    (name, steps), (other, _) = best.split("/"), reference.split("/")
    return (
        f"With at most {FEW_CALLS} network calls the best is {name} at {steps} steps ({found[best]['calls']:.0f} calls): "
        f"{found[best]['fd']:.2f}, {100 * (ratio - 1):+.1f} % beside the {found[reference]['fd']:.2f} of ancestral sampling "
        f"({other}) at {most} steps, {verdict} {100 * (MARGIN - 1):.0f} %."
    )


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: a sampler a line, a number of steps a column, and the sentence."""
    found = result["cells"]
    names = list(dict.fromkeys(k.split("/")[0] for k in sorted(found, key=lambda k: list(SAMPLERS).index(k.split("/")[0]))))
    steps = sorted({int(k.split("/")[1]) for k in found})

    def text(name: str, count: int) -> str:
        cell = found.get(key(name, count))
        return f"{cell['fd']:.2f} ({cell['calls']:.0f}, {cell['cpu_sec_per_image']:.2g} s)" if cell else "–"

    rows = [[name, *(text(name, count) for count in steps)] for name in names]
    note = (
        f"Fréchet distance (network calls, processor seconds an image). "
        f"Real images reach {result['floor']:.2f}. {sentence(found)}"
    )
    return f"{markdown_table(['steps', *map(str, steps)], rows)}\n\n{note}"


def plot(found: dict[str, Cell], floor: float, path: Path) -> None:
    """Fréchet distance against network calls, a line for each sampler."""
    require("matplotlib", "matplotlib>=3.9")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in SAMPLERS:
        points = sorted((cell["calls"], cell["fd"]) for k, cell in found.items() if k.split("/")[0] == name)
        if points:
            axes.plot(*zip(*points), marker="o", markersize=4, label=name)
    axes.axhline(floor, color="grey", linestyle=":", label="real images")
    axes.axvline(FEW_CALLS, color="lightgrey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="network calls an image", ylabel="Fréchet distance, EfficientNet-Lite0")
    ticks = sorted({round(cell["calls"]) for cell in found.values()})
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=7, rotation=45)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


# ---- the command ----


def real_images(node: Any, n: int, overrides: Sequence[str]) -> tuple[Tensor, Tensor]:
    """n test images and n training images, uint8. Raises ValueError where there are fewer."""
    from omegaconf import OmegaConf

    changes = [word.removeprefix("data.") for word in overrides]
    data = instantiate_untrusted(OmegaConf.merge(node, OmegaConf.from_dotlist(changes)))
    data.setup()
    sets = data.test_dataset, data.train_dataset
    if n > (most := min(len(part) for part in sets)):
        raise ValueError(f"--n {n}: there are {most} images to compare with")
    test, train = (to_uint8(part.__getitems__([(i, i) for i in range(n)])["image"]) for part in sets)
    return test, train


def earlier(out: Path, what: dict[str, Any]) -> dict[str, Cell]:
    """The cells of an earlier call. Raises ValueError if it measured something else."""
    if not out.exists():
        return {}
    found = json.loads(out.read_text())
    other = next((name for name in what if found["what"].get(name) != what[name]), None)
    if other:
        raise ValueError(f"{out} holds another {other} ({found['what'].get(other)}): remove it or choose another --out")
    return found["cells"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler_table", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", required=True, help="a run or checkpoint of a diffusion model")
    parser.add_argument("--n", type=positive(int), default=2000, help="images a cell (default 2000)")
    parser.add_argument("--steps", type=positive(int), nargs="+", default=list(STEPS), help="numbers of steps")
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--most-calls", type=positive(int), default=250, help="skip cells with more (default 250)")
    parser.add_argument("--batch", type=positive(int), default=250, help="images at once (default 250)")
    parser.add_argument("--out", type=Path, default=RESULTS / "sampler_table.json", help="where the JSON goes")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the plot goes")
    parser.add_argument("overrides", nargs="*", help="of the data, for instance data.root=DIR")
    args = parser.parse_args(argv)
    if wrong := [word for word in args.overrides if not word.startswith("data.")]:
        raise ValueError(f"{wrong[0]}: only settings of the data can be given")
    module, config, info = load_module(args.ckpt)
    if not hasattr(module, "stage"):
        raise ValueError(f"--ckpt {args.ckpt}: this is no diffusion model of one stage")
    kind = sampling_precision("auto", config, "cpu")
    what = {"weights": info["sha256"], "n": args.n, "precision": kind}
    known, extractor = earlier(args.out, what), EfficientNetLite0()
    test, train = real_images(config.data, args.n, args.overrides)
    real = extractor(test)
    settings = {"ckpt": Path(args.ckpt).name, "images": args.n, "batch": args.batch, "precision": kind}
    settings |= {"training images": info["images_seen"]}
    result = {
        "benchmark": "sampler_table",
        "what": what,
        "settings": settings,
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "timm"),
        "floor": frechet_of_features(real, extractor(train)),
        "cells": known,
    }
    todo = cells(args.samplers, args.steps, args.most_calls)
    measured(
        module, real, extractor, todo, known, lambda: write_json(args.out, result),
        n=args.n, batch=args.batch, bf16=kind == "bf16",
    )  # fmt: skip
    write_json(args.out, result)
    plot(known, result["floor"], args.picture)
    block = f"\n{table(result)}\n\n{describe(result)}\n\n"
    if PAGE.exists() and "<!-- sampler_table -->" in PAGE.read_text():
        PAGE.write_text(fill(PAGE.read_text(), "sampler_table", block, PAGE.name))
    print(f"{block}{args.out}; {args.picture}")


if __name__ == "__main__":
    run(main)
