"""At which noise level does a text-to-image model use which part of the caption? Losses under true and false captions.

python -m benchmarks.when_decided --ckpt imagen-scenes [--names zoo … --n 96 --publish]

Training images of captioned scenes are noised at sixteen levels. The first stage predicts v under the image's own caption and under one in
which one thing is wrong: the relation, a colour, the number, the letters of a word. The mean excess of the squared error under the false caption says how much the
model goes by that part of the caption at this level: zero where it does not read it, or has nothing left to decide. With --publish the table
and the curves go into docs/imagen.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json
from benchmarks.tables import describe, fill
from contracts import Request
from datamodules.scenes import ScenesDataset
from rng.keyed import keyed_randn
from runtime.checkpoint import load_module
from scenes.captions import caption
from scenes.grammar import COLOURS, INVERSE, LETTERS, PRESETS, SceneSpec

PAGE, PICTURE = REPO / "docs" / "imagen.md", REPO / "docs" / "images" / "when_decided.png"
PRESET, LEVELS = "scenes_simple", tuple(float(level) for level in range(-11, 5))
SHOWN = (-10.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 2.0, 4.0)  # levels of the table
TURNED = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}


def wrong(spec: SceneSpec) -> dict[str, SceneSpec]:
    """Name of a mistake -> the scene with this mistake alone: of letters in words, the number in single groups, everything else in pairs."""
    if spec.kind == "word":
        return {"letters": replace(spec, word="".join(LETTERS[(LETTERS.index(c) + 7) % len(LETTERS)] for c in spec.word))}
    first, *others = spec.groups
    if spec.kind == "single":
        most = PRESETS[PRESET].max_count
        return {"count": replace(spec, groups=(replace(first, count=first.count % most + 1),))}
    (second,) = others
    shapes = PRESETS[PRESET].shapes
    colour = next(c for c in COLOURS if c not in (first.colour, second.colour))
    found = {
        "which side": replace(spec, relation=INVERSE[spec.relation]),
        "beside or above": replace(spec, relation=TURNED[spec.relation]),
        "colour": replace(spec, groups=(replace(first, colour=colour), second)),
        "shape": replace(spec, groups=(replace(first, shape=shapes[(shapes.index(first.shape) + 1) % len(shapes)]), second)),
        "size": replace(spec, groups=(replace(first, size="small" if first.size == "large" else "large"), second)),
    }
    if first.colour != second.colour:
        found["whose colour"] = replace(spec, groups=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    return found


def cases(n: int) -> dict[str, list[tuple[Tensor, str, str]]]:
    """Mistake -> n images float32 (3, 64, 64) in [-1, 1], each with its own caption and one with this mistake."""
    data, index = ScenesDataset(PRESET, 64, 50_000, ("train",), 0, "when decided"), 0
    names = ("which side", "beside or above", "whose colour", "colour", "size", "shape", "count", "letters")
    found = {name: [] for name in names}
    while any(len(rows) < n for rows in found.values()):
        item = data[(index, index)]
        spec = SceneSpec.from_dict(item["spec"])
        for name, other in wrong(spec).items():
            if len(found[name]) < n:
                found[name].append((item["image"], item["caption"], caption(other, index, preset=PRESET)))
        index += 1
    return found


@torch.inference_mode()
def errors(module: Any, image: Tensor, captions: Sequence[str], log_snr: float) -> Tensor:
    """(B,) mean squared error of v of the first stage for images (B, 3, 64, 64) at one noise level, with one noise for all captions."""
    name, stage = module.base, module.stages[module.base]
    batch = {"image": image, "seed": torch.arange(len(image)), **module.request_fields(Request(len(image), texts=list(captions)))}
    x_0, batch = stage.clean(batch, name)
    level = torch.tensor(log_snr, dtype=torch.float64)
    alpha, sigma = float(level.sigmoid().sqrt()), float((-level).sigmoid().sqrt())
    eps = keyed_randn(batch["seed"], x_0.shape[1:], "when decided")
    told = stage.told({key: conditioner.from_batch(batch) for key, conditioner in stage.conditioners.items()})
    v = stage.net(alpha * x_0 + sigma * eps, torch.full((len(image),), log_snr), **told)
    return (v - (alpha * eps - sigma * x_0)).square().flatten(1).mean(1)


def measure(module: Any, found: dict[str, list[tuple[Tensor, str, str]]]) -> dict[str, list[float]]:
    """Mistake -> mean excess error at each of LEVELS."""
    if module.stages[module.base].denoiser.prediction != "v":
        raise ValueError("the first stage does not predict v, and errors of other predictions do not compare")
    excess = {}
    for name, rows in found.items():
        image = torch.stack([row[0] for row in rows])
        own, other = ([row[i] for row in rows] for i in (1, 2))
        excess[name] = [float((errors(module, image, other, level) - errors(module, image, own, level)).mean()) for level in LEVELS]
    return excess


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """A row for each model and mistake, in thousandths of a unit of squared error."""
    head = ["the caption's mistake", "model", *(f"{level:g}" for level in SHOWN)]
    mistakes = next(iter(results.values()))
    rows = [[mistake if i == 0 else '"', name, *(f"{1000 * excess[mistake][LEVELS.index(level)]:.1f}" for level in SHOWN)]
            for mistake in mistakes for i, (name, excess) in enumerate(results.items())]  # fmt: skip
    return markdown_table(head, rows)


def draw_curves(results: dict[str, dict[str, list[float]]]) -> None:
    """One panel a model."""
    require("matplotlib", "matplotlib>=3.9")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.4 * len(results), 4), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for panel, (name, excess) in zip(panels, results.items()):
        for mistake, values in excess.items():
            panel.plot(LEVELS, values, label=mistake)
        panel.set(title=name, xlabel="log-SNR (left: noise, right: image)")
    panels[0].set_ylabel("excess error of v under a false caption")
    panels[0].legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.when_decided", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", nargs="+", default=["imagen-scenes"], help="runs, checkpoints or names in zoo/")
    parser.add_argument("--names", nargs="*", help="what the table calls them; by default as they are given")
    parser.add_argument("--trust", nargs="*", default=[], help="places outside this repository that the runs name")
    parser.add_argument("--n", type=positive(int), default=96, help="images of each mistake (default 96)")
    parser.add_argument("--publish", action="store_true", help="write the table and the curves into docs/")
    args = parser.parse_args(argv)
    names = args.names or [ckpt.rstrip("/").rpartition("/")[2] for ckpt in args.ckpt]
    if len(set(names)) != len(args.ckpt):
        raise ValueError(f"--names {' '.join(names)}: give each of {len(args.ckpt)} models a name of its own")
    found, results = cases(args.n), {}
    for name, ckpt in zip(names, args.ckpt):
        module = load_module(ckpt, trust=tuple(args.trust))[0]
        if module.conditioning != "text" or not hasattr(module, "stages"):
            raise ValueError(f"--ckpt {ckpt}: this is no diffusion model of texts")
        results[name] = measure(module.eval(), found)
        print(f"{name}: done", flush=True)
    result = {
        "benchmark": "when_decided", "settings": {"images a mistake": args.n}, "machine": machine(torch.get_num_threads()),
        **provenance("torch"), "levels": LEVELS, "results": results,
    }  # fmt: skip
    write_json(RESULTS / "when_decided.json", result)
    print(table(results))
    if args.publish:
        draw_curves(results)
        block = f"\n![Excess error against noise level](images/{PICTURE.name})\n\n{table(results)}\n\n{describe(result)}\n\n"
        PAGE.write_text(fill(PAGE.read_text(), "when_decided", block, PAGE.name))


if __name__ == "__main__":
    run(main)
