"""What breaks first? Scenes that ask for one thing more at a time than a model of captioned scenes was trained on.

python -m benchmarks.harder [--ckpt imagen-scenes --n 64 --publish]

Ladders from what training has to what it never had: more objects in a group, more groups in a list, several objects on both sides of a relation, and
shapes whose names no caption had. Pictures are read back by the scene parser; true drawings of the same scenes show that it can read them. Nothing of the
model was chosen by these scenes. With --publish the table and a picture go into docs/imagen.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torchvision.utils import make_grid

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from contracts import Request
from evaluation.metrics.images import to_uint8
from runtime.checkpoint import load_module
from scenes.captions import caption
from scenes.grammar import COLOURS, NUM_GROUPS, PRESETS, RELATIONS, SHAPES, SIZES, Group, SceneSpec
from scenes.layout import layout
from scenes.parser import parse
from scenes.render import render
from scenes.rng import Rng
from scenes.scoring import score, wilson
from scenes.splits import HELD_OUT_CELLS, HELD_OUT_COUNTS, HELD_OUT_RELATIONS

PAGE, PICTURE = REPO / "docs" / "imagen.md", REPO / "docs" / "images" / "harder.png"
PRESET, FIRST_SEED, BATCH, SHOWN = "scenes_simple", 700_000, 16, 8
KIND_OF = {number: kind for kind, number in NUM_GROUPS.items() if number}
KNOWN = PRESETS[PRESET].shapes
Draw = Callable[[Rng], SceneSpec]


def one_group(count: int, shapes: Sequence[str] = KNOWN) -> Draw:
    return lambda rng: SceneSpec("single", (group(rng, count, shapes),))


def listed(number: int) -> Draw:
    return lambda rng: SceneSpec(KIND_OF[number], tuple(group(rng, 1, KNOWN) for _ in range(number)))


def related(first: int, second: int) -> Draw:
    return lambda rng: SceneSpec("pair", (group(rng, first, KNOWN), group(rng, second, KNOWN)), rng.choice(RELATIONS))


def group(rng: Rng, count: int, shapes: Sequence[str]) -> Group:
    return Group(count, rng.choice(SIZES), rng.choice(tuple(COLOURS)), rng.choice(tuple(shapes)))


LADDERS: tuple[tuple[str, bool, Draw], ...] = (  # what is asked, whether training has such scenes (these among them), and a random one
    *((f"one group of {count}", count <= PRESETS[PRESET].max_count, one_group(count)) for count in range(1, 7)),
    *((f"{number} objects in a list", False, listed(number)) for number in range(2, 6)),
    ("1 object left of, right of, above or below 1", True, related(1, 1)),
    ("2 objects beside 1", False, related(2, 1)),
    ("2 objects beside 2", False, related(2, 2)),
    ("a shape without a name in training", False, one_group(1, [shape for shape in SHAPES if shape not in KNOWN])),
)


def eligible(spec: SceneSpec, seed: int) -> bool:
    """Whether a scene can be drawn and breaks none of the rules of the splits, which would be a second thing that training never has."""
    groups, told = spec.groups, spec.ordered()
    if len({(g.size, g.colour, g.shape) for g in groups}) < len(groups):
        return False
    if any((g.shape, g.colour) in HELD_OUT_CELLS or (g.count, g.shape) in HELD_OUT_COUNTS for g in groups):
        return False
    if told.relation and (told.groups[0].shape, told.relation, told.groups[1].shape) in HELD_OUT_RELATIONS:
        return False
    try:
        layout(spec, seed)
    except ValueError:  # no room
        return False
    return True


def scenes(draw: Draw, n: int) -> list[tuple[int, SceneSpec]]:
    """n scenes, each with the seed of its caption and picture."""
    drawn = ((seed, draw(Rng("harder", seed))) for seed in itertools.count(FIRST_SEED))
    return list(itertools.islice(((seed, spec) for seed, spec in drawn if eligible(spec, seed)), n))


def read_back(specs: Sequence[SceneSpec], images_u8: torch.Tensor) -> list[dict[str, float]]:
    """The skills of uint8 images (B, 3, S, S)."""
    return [score(spec, parse(image.permute(1, 2, 0).numpy())) for spec, image in zip(specs, images_u8)]


def measure(module: Any, n: int) -> tuple[list[dict[str, Any]], list[torch.Tensor]]:
    """A line for each rung, and the first images of each, uint8 (SHOWN, 3, S, S)."""
    lines, shown = [], []
    for name, seen, draw in LADDERS:
        rung = scenes(draw, n)
        specs, images = [spec for _, spec in rung], []
        for begin in range(0, n, BATCH):
            texts = [caption(spec, seed, preset=PRESET) for seed, spec in rung[begin : begin + BATCH]]
            images.append(to_uint8(module.sample(Request(len(texts), texts=texts), seeds=list(range(begin, begin + len(texts)))).float()))
        drawn = torch.cat(images)
        true = torch.stack([torch.from_numpy(render(spec, seed, drawn.shape[-1])[0]).permute(2, 0, 1) for seed, spec in rung])
        skills, ceiling = read_back(specs, drawn), read_back(specs, true)
        means = {skill: sum(s[skill] for s in skills) / n for skill in ("all_correct", "count", "colour", "shape", "size")}
        different = len({spec.canonical() for spec in specs})
        lines.append({"what": name, "seen": seen, "n": n, "different": different, **means, "true_drawings": sum(s["all_correct"] for s in ceiling) / n})
        shown.append(drawn[:SHOWN])
        print(f"{name}: {means['all_correct']:.0%}", flush=True)
    return lines, shown


def table(lines: Sequence[dict[str, Any]]) -> str:
    head = ["asked for", "in training", "different scenes", "all correct", "right number of objects", "of those found: colour", "shape", "size", "true drawings read"]
    rows = []
    for line in lines:
        low, high = wilson(line["all_correct"] * line["n"], line["n"])
        rows.append([
            line["what"], "yes" if line["seen"] else "no", str(line["different"]), f"{line['all_correct']:.0%} [{100 * low:.0f}, {100 * high:.0f}]",
            *(f"{line[skill]:.0%}" for skill in ("count", "colour", "shape", "size", "true_drawings")),
        ])  # fmt: skip
    return markdown_table(head, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harder", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="imagen-scenes", help="a run, a checkpoint or a name in zoo/ (default imagen-scenes)")
    parser.add_argument("--n", type=positive(int), default=64, help="scenes of each kind (default 64)")
    parser.add_argument("--publish", action="store_true", help="write the table and a picture into docs/imagen.md")
    args = parser.parse_args(argv)
    module = load_module(args.ckpt)[0].eval()
    if module.conditioning != "text":
        raise ValueError(f"--ckpt {args.ckpt}: this model does not draw from captions")
    lines, shown = measure(module, args.n)
    result = {
        "benchmark": "harder", "settings": {"model": args.ckpt, "scenes of each kind": args.n}, "machine": machine(torch.get_num_threads()),
        **provenance("torch"), "lines": lines,
    }  # fmt: skip
    write_json(RESULTS / "harder.json", result)
    print(table(lines))
    if args.publish:
        grid = make_grid(torch.cat(shown), nrow=SHOWN, padding=2)
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(PICTURE)
        block = f"\n{table(lines)}\n\n![The first pictures of each row](images/{PICTURE.name})\n\n{describe(result)}\n\n"
        PAGE.write_text(fill(PAGE.read_text(), "harder", block, PAGE.name))


if __name__ == "__main__":
    run(main)
