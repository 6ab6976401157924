"""Imagen, GLIDE and DALL-E 2 after equal computation on captioned scenes: alignment by skill, Fréchet distance, guidance curves.

python -m benchmarks.text_table [--cpu-minutes 60 --n 512 --small --models imagen glide dalle2 --jobs 2] [-- data=scenes …]

Each model trains in a process of its own on one thread for so many processor minutes, start-up and saving included; the CLIP of
DALL-E 2, trained before, is not counted. With --small the U-Nets are narrower, for more pictures in the time. `evaluate.py`
then draws and judges each. Models that --dir holds are not made again.
Fills the table of docs/text_to_image.md and draws the curves and the pictures beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json
from benchmarks.diffusion_table import make_rows, train_ours
from benchmarks.tables import describe, fill

PAGE = REPO / "docs" / "text_to_image.md"
CURVES, PICTURES = REPO / "docs" / "images" / "text_curves.png", REPO / "docs" / "images" / "text_table.png"
MODELS = ("imagen", "glide", "dalle2")
# Stage -> its narrow size, for --small.
FIRST = ("net.tokens_dim=128", "net.dim=32", "net.dim_mults=[1,4]", "net.mid_blocks=4")
SMALL: dict[str, dict[str, tuple[str, ...]]] = {
    "imagen": {"base": FIRST, "super_resolution": ("net.dim=32", "net.tokens_dim=64")},
    "glide": {"base": (*FIRST, "conditioners.text.heads=4"),
              "upsampler": ("net.dim=32", "net.tokens_dim=64", "conditioners.text.heads=2")},
    "dalle2": {"decoder": FIRST, "upsampler": ("net.dim=32",)},
}  # fmt: skip
# Imagen's default is narrower; here the three share their sizes.
EQUAL: dict[str, tuple[str, ...]] = {
    "imagen": (
        "model.stages.base.net.tokens_dim=192", "model.stages.base.net.dim=64", "model.stages.base.net.dim_mults=[1,3]",
        "model.stages.base.net.mid_blocks=6", "model.stages.super_resolution.net.dim=48", "model.stages.super_resolution.net.tokens_dim=96",
    ),
}  # fmt: skip
SPLITS = ("iid", "combo")
PROMPTS = REPO / "docs" / "prompts.txt"
DISTANCE = "fd_clip_scenes"
SKILLS = ("all_correct", "count", "colour", "shape", "size", "binding", "relation", "spelling")
SCORES = (DISTANCE, "r_precision_scenes", "clip_score_scenes")
GUIDANCE = (1, 1.5, 2.5, 4, 6)


@dataclass(frozen=True)
class Settings:
    """What every model is given."""

    cpu_minutes: float = 60.0
    n: int = 512
    seed: int = 0
    small: bool = False


def sized(name: str, small: bool) -> list[str]:
    """Overrides for the sizes of a model's stages, and for what is not alike in the models' defaults."""
    narrow = [f"model.stages.{stage}.{setting}" for stage, settings in SMALL[name].items() for setting in settings]
    return [*EQUAL.get(name, ()), *(narrow if small else [])]


def make_row(name: str, s: Settings, folder: Path, overrides: Sequence[str]) -> None:
    """Trains and evaluates a model below `folder` unless that was done.

    Raises: ValueError if the folder holds a row with other settings.
    """
    import evaluate
    import sample

    torch.set_num_threads(1)
    out, job = folder / name, asdict(s) | {"overrides": list(overrides)}
    if (out / "job.json").exists() and json.loads((out / "job.json").read_text()) != job:
        raise ValueError(f"{out} holds a row with other settings: remove it or choose another --dir")
    write_json(out / "job.json", job)
    train_ours(name, s, out, [*sized(name, s.small), *overrides])
    if not (out / "evaluation" / "metrics.json").exists():
        evaluate.main([
            f"ckpt={out / 'run'}", f"name={name}", f"out={out / 'evaluation'}", f"n={s.n}", f"splits=[{','.join(SPLITS)}]", "device=cpu",
            f"sweep.guidance_scale=[{','.join(map(str, GUIDANCE))}]",
        ])  # fmt: skip
    if not (out / "pictures" / "grid.png").exists():
        sample.main([f"ckpt={out / 'run'}", f"prompts={PROMPTS}", "n=1", f"out={out / 'pictures'}", "device=cpu"])


def row(out: Path) -> dict[str, Any]:
    """What a model's training and evaluation found."""
    facts, found = (json.loads((out / name).read_text()) for name in ("training.json", "evaluation/metrics.json"))
    splits = {}
    for split, part in found["splits"].items():
        kept = {}
        for name in (*SKILLS, *SCORES):
            if name in part["metrics"]:
                kept[name] = {k: part["metrics"][name][k] for k in ("value", "low", "high", "real") if k in part["metrics"][name]}
        splits[split] = kept
    curve = [{k: point[k] for k in ("x", "all_correct", "all_correct_low", "all_correct_high", DISTANCE, f"{DISTANCE}_real") if k in point}
             for sweep in found["sweeps"] for point in sweep["points"]]  # fmt: skip
    return facts | {"splits": splits, "curve": curve, "cost": {k: found["cost"][k] for k in ("nfe", "sec_per_image")}}


def table(rows: dict[str, Any]) -> str:
    """Training, then a table of each split: alignment in percent, the distance and CLIP's two scores, with what real images reach."""
    head = ["", "parameters", "steps", "images", "processor minutes", "network calls an image", "seconds an image"]
    lines = [[name, f"{r['parameters']:,}", f"{r['steps']:,}", f"{r['images']:,}", f"{r['cpu_sec'] / 60:.1f}", str(r["cost"]["nfe"]),
              f"{r['cost']['sec_per_image']:.2f}"] for name, r in rows.items()]  # fmt: skip
    parts = [markdown_table(head, lines)]
    for split in SPLITS:
        metrics = [m for m in (*SKILLS, *SCORES) if any(m in r["splits"].get(split, {}) for r in rows.values())]
        lines = [[m, *(shown(m, r["splits"][split].get(m)) for r in rows.values()), shown(m, real(rows, split, m))] for m in metrics]
        parts.append(f"`{split}`:\n\n" + markdown_table(["", *rows, "real images"], lines))
    return "\n\n".join(parts)


def shown(metric: str, found: dict[str, float] | None) -> str:
    """A value with its interval; shares in percent."""
    if not found:
        return "–"
    percent = metric in SKILLS or metric.startswith("r_precision")
    text = [f"{100 * found[k]:.0f}" if percent else f"{found[k]:.3g}" for k in ("value", "low", "high") if k in found]
    return f"{text[0]}{' %' if percent else ''}" + (f" [{text[1]}, {text[2]}]" if len(text) == 3 else "")


def real(rows: dict[str, Any], split: str, metric: str) -> dict[str, float] | None:
    """What real images reach, of which every row has the same."""
    found = next((r["splits"][split][metric] for r in rows.values() if metric in r["splits"].get(split, {})), {})
    return {"value": found["real"]} if "real" in found else None


def draw_curves(rows: dict[str, Any], path: Path) -> None:
    """Distance against alignment at growing guidance, a line for each model."""
    require("matplotlib", "matplotlib>=3.9")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, r in rows.items():
        points = [(100 * p["all_correct"], p[DISTANCE], p["x"]) for p in r["curve"] if {"all_correct", DISTANCE} <= set(p)]
        axes.plot(*zip(*[p[:2] for p in points]), marker="o", markersize=4, label=name)
        for x, y, w in points:
            axes.annotate(f"{w:g}", (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="all-correct scenes, in percent", ylabel=f"{DISTANCE}, the lower the better", yscale="log")
    axes.legend(title="by guidance scale")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def draw_pictures(names: Sequence[str], folder: Path, path: Path) -> None:
    """Each model's pictures of the same prompts, side by side below its name."""
    from PIL import ImageDraw, ImageFont

    grids, top = [Image.open(folder / name / "pictures" / "grid.png").convert("RGB") for name in names], 24
    sheet = Image.new("RGB", (sum(g.width for g in grids), top + max(g.height for g in grids)), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for name, grid in zip(names, grids):
        draw.text((left + 4, 4), name, fill="black", font=ImageFont.load_default(size=16))
        sheet.paste(grid, (left, top))
        left += grid.width
    sheet.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_table", description=__doc__.splitlines()[0])
    for name, kind, text in (("cpu_minutes", float, "processor minutes of training for each"), ("n", int, "images of each split")):
        default = getattr(Settings, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive(kind), default=default, help=f"{text} (default {default})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="narrower U-Nets, which see more pictures in the time")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="to make; others are kept")
    parser.add_argument("--jobs", type=positive(int), default=1, help="models at once (default 1)")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "text_table", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "text_table.json", help="where the JSON goes")
    parser.add_argument("--only-row", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of the trainings, after --, for instance data=scenes")
    args = parser.parse_args(argv)
    s, folder = Settings(args.cpu_minutes, args.n, args.seed, args.small), args.dir.resolve()
    if args.only_row:
        make_row(args.only_row, s, folder, args.overrides)
        return
    numbers = {k: v for k, v in asdict(s).items() if k != "small"}
    words = [*(f"--{k.replace('_', '-')}={v}" for k, v in numbers.items()), *(["--small"] if s.small else []), f"--dir={folder}", "--", *args.overrides]
    make_rows(args.models, args.jobs, words, folder, "text_table")
    names = [name for name in MODELS if (folder / name / "evaluation" / "metrics.json").exists()]
    rows = {name: row(folder / name) for name in names}
    result = {
        "benchmark": "text_table", "settings": asdict(s) | {"overrides": " ".join(args.overrides) or "none"},
        "machine": machine(1), **provenance("torch"), "rows": rows,
    }  # fmt: skip
    write_json(args.out, result)
    draw_curves(rows, CURVES)
    draw_pictures(names, folder, PICTURES)
    pictures = (f"![Pictures of the same prompts by {', '.join(names)}](images/{PICTURES.name})\n\n"
                f"![Distance against alignment by guidance scale](images/{CURVES.name})")  # fmt: skip
    block = f"\n{pictures}\n\n{table(rows)}\n\n{describe(result)}\n\n"
    PAGE.write_text(fill(PAGE.read_text(), "text_table", block, PAGE.name))
    print(f"{block}{args.out}; {CURVES}; {PICTURES}")


if __name__ == "__main__":
    run(main)
