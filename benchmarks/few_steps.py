"""What fewer steps cost: alignment and seconds an image of a model of captioned scenes, by guidance, sampler, and distilled.

python -m benchmarks.few_steps --ckpt imagen-scenes [--students RUN … --steps 4 8 16 32 --interval -4.25 0.25 --sde-scale 1.5 --others 3 --n 96 --publish]

The first stage draws with the steps given; the stages that enlarge its picture with as many as configured, and with --others. "Second order" is sampler=dpmpp_2m_sde
with guidance_scale=--sde-scale. A student
(distill=few_steps) draws as it was distilled, its other stages with --others. The scene parser says which of n new scenes are drawn exactly as told, words left out;
intervals are of 95 %. With --publish the table and the curve go into docs/distillation.md.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json
from benchmarks.scene_scores import AT_ONCE, scores_of
from benchmarks.tables import describe, fill
from datamodules.scenes import ScenesDataset
from diffusion.samplers import dpmpp_2m
from runtime.checkpoint import load_module
from scenes.captions import caption
from scenes.grammar import SceneSpec
from scenes.scoring import wilson

PAGE, PICTURE = REPO / "docs" / "distillation.md", REPO / "docs" / "images" / "few_steps.png"
PRESET = "scenes_simple"


def prompts(n: int) -> list[tuple[SceneSpec, str]]:
    """n scenes of objects that training did not have, each with a caption."""
    data = ScenesDataset(PRESET, 64, 2 * n, ("iid",), 0, "few steps")
    specs = [spec for spec in map(data.spec, range(2 * n)) if spec.kind != "word"][:n]
    return [(spec, caption(spec, i, preset=PRESET)) for i, spec in enumerate(specs)]


def ways(module: Any, steps: Sequence[int], interval: Sequence[float], sde_scale: float, others: int) -> list[tuple[str, dict[str, Any]]]:
    """Name of a row -> options of `sample`."""
    first, *rest = module.stages
    found: list[tuple[str, dict[str, Any]]] = [("as configured", {})]
    for n in steps:
        number = {first: n} | dict.fromkeys(rest, others)
        found.append(("guided", {"num_steps": number}))
        found.append(("guided in the interval", {"num_steps": number, "guidance_interval": list(interval)}))
        sampler = functools.partial(dpmpp_2m, eta=1.0)
        found.append((f"second order, w = {sde_scale:g}", {"num_steps": number, "guidance_scale": sde_scale, "sampler": sampler}))
    return found


def measure(module: Any, pairs: Sequence[tuple[SceneSpec, str]], options: dict[str, Any]) -> dict[str, float]:
    """Share of all-correct scenes with its interval, and seconds an image in batches of 16."""
    found, sec = scores_of(module, pairs, options)
    hits = sum(s["all_correct"] == 1 for s in found)
    low, high = wilson(hits, len(found))
    return {"all_correct": hits / len(found), "low": low, "high": high, "sec": sec}


def rows_of(ckpt: str, students: Sequence[str], steps: Sequence[int], interval: Sequence[float], sde_scale: float, others: int, n: int) -> list[dict[str, Any]]:
    """A row for each way to draw, students last."""
    pairs, rows = prompts(n), []
    for name in (ckpt, *students):
        module, _, info = load_module(name)
        apart = [stage for stage in module.stages if stage not in module.train_stages]  # of a student: what was not distilled
        todo = ways(module, steps, interval, sde_scale, others) if name == ckpt else [("distilled", {"num_steps": dict.fromkeys(apart, others)})]
        measure(module, pairs[:AT_ONCE], todo[0][1])  # the first call prepares kernels
        for way, options in todo:
            number = {stage: options.get("num_steps", {}).get(stage, part.num_steps) for stage, part in module.stages.items()}
            rows.append({"way": way, "steps": number, "images_seen": info["images_seen"], **measure(module, pairs, options)})
            print(f"{way}, {' + '.join(map(str, number.values()))} steps: {rows[-1]['all_correct']:.1%}, {rows[-1]['sec']:.3f} s an image", flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each row."""
    lines = [
        [row["way"], " + ".join(map(str, row["steps"].values())), f"{row['all_correct']:.0%} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]",
         f"{row['sec']:.3f}"] for row in rows
    ]  # fmt: skip
    return markdown_table(["", "steps", "all-correct", "seconds an image"], lines)


def draw_curve(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Alignment against seconds, a line for each way."""
    require("matplotlib", "matplotlib>=3.9")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in rows):
        part = sorted((row for row in rows if row["way"] == way), key=lambda row: row["sec"])
        y = [100 * row["all_correct"] for row in part]
        errors = [[100 * (row["all_correct"] - row["low"]) for row in part], [100 * (row["high"] - row["all_correct"]) for row in part]]
        axes.errorbar([row["sec"] for row in part], y, errors, marker="o", markersize=4, capsize=2, label=way)
        for row in part:
            label = "+".join(map(str, row["steps"].values()))
            axes.annotate(label, (row["sec"], 100 * row["all_correct"]), fontsize=7, xytext=(4, -9), textcoords="offset points")
    axes.set(xlabel="seconds an image", ylabel="all-correct scenes, in percent", xscale="log", ylim=(0, 100))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="imagen-scenes", help="a run, checkpoint or name in zoo/ (default imagen-scenes)")
    parser.add_argument("--students", nargs="*", default=[], help="models distilled from it")
    parser.add_argument("--steps", nargs="*", type=positive(int), default=[4, 8, 16, 32], help="of the first stage")
    parser.add_argument("--interval", nargs=2, type=float, default=[-4.25, 0.25], help="log-SNR at which to guide (default -4.25 0.25)")
    parser.add_argument("--sde-scale", type=positive(float), default=1.5, help="guidance of the rows of second order (default 1.5)")
    parser.add_argument("--others", type=positive(int), default=3, help="steps of the stages that enlarge (default 3)")
    parser.add_argument("--n", type=positive(int), default=96, help="scenes (default 96)")
    parser.add_argument("--publish", action="store_true", help="put table and curve into docs/distillation.md")
    parser.add_argument("--out", type=Path, default=RESULTS / "few_steps.json", help="where the JSON goes")
    args = parser.parse_args(argv)
    rows = rows_of(args.ckpt, args.students, args.steps, args.interval, args.sde_scale, args.others, args.n)
    settings = {"ckpt": Path(args.ckpt).name, "interval": args.interval, "sde_scale": args.sde_scale, "n": args.n}
    result = {"benchmark": "few_steps", "settings": settings, "machine": machine(torch.get_num_threads()), **provenance("torch"), "rows": rows}
    write_json(args.out, result)
    print(table(rows))
    if args.publish:
        draw_curve(rows, PICTURE)
        block = f"\n![Alignment against seconds an image](images/{PICTURE.name})\n\n{table(rows)}\n\n{describe(result)}\n\n"
        PAGE.write_text(fill(PAGE.read_text(), "few_steps", block, PAGE.name))


if __name__ == "__main__":
    run(main)
