"""Which modes does each adversarial loss draw? Eight Gaussians on a ring (or 25 on a grid), a minute a loss on a CPU.

python -m benchmarks.gan_modes [--data ring --steps 4000 --seed 0 --dir DIR]

Every loss trains the same players with the settings of experiment=gan/points, and once more without penalties on the
discriminator's slope. Writes the JSON, the table in docs/gan_modes.md and the picture beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from contracts import Request
from evaluation.metrics.modes import coverage, mode_of
from runtime.checkpoint import load_module
from runtime.config import compose
from runtime.fit import fit

PAGE = REPO / "docs" / "gan_modes.md"
# Every loss beside the settings of experiment=gan/points, which penalise the discriminator's slope; how large a slope
# is depends on the scale of a loss's scores. Without a bound on its slope a Wasserstein critic is none.
LOSSES: dict[str, list[str]] = {
    "minimax": [],
    "non_saturating": [],
    "least_squares": ["model.r1=0.1"],
    "hinge": [],
    "wasserstein": ["model.r1=0", "model.gradient_penalty=0.1", "model.penalty_every=1"],
    "relativistic": [],
}
PLAIN = {loss: ["model.r1=0"] for loss in LOSSES if loss != "wasserstein"}
POINTS, FRAMES = 4000, 4
PANEL = 168  # pixels


def train(loss: str, more: Sequence[str], data: str, steps: int, seed: int, folder: Path) -> tuple[list[Path], float]:
    """A run of one loss: FRAMES checkpoints evenly over it, and the processor's seconds."""
    settings = [
        "experiment=gan/points", f"data={data}", f"model.loss={loss}", *more,
        f"trainer.max_steps={steps}", "trainer=cpu", "trainer.precision=32-true", f"seed={seed}",
        f"run_dir={folder}", "name=gan_modes", "logger.wandb=null", "callbacks.progress=null",
        "callbacks.validate=null", "callbacks.evaluate=null",
        f"callbacks.checkpoint.every_steps={max(1, steps // FRAMES)}", "callbacks.checkpoint.every_sec=null",
        f"callbacks.checkpoint.keep={FRAMES + 1}",
    ]  # fmt: skip
    began = time.process_time()
    fit(compose("train", settings), None)
    spent = time.process_time() - began
    return sorted((folder / "checkpoints").glob("step=*.ckpt"))[-FRAMES:], spent


def points(checkpoint: Path, n: int = POINTS) -> Tensor:
    """n points (n, 2) of a checkpoint's averaged weights, each of a seed of its own."""
    return load_module(checkpoint)[0].sample(Request(n), seeds=range(n)).flatten(1)


def mixture(data: str) -> tuple[Tensor, float]:
    """Centres (K, 2) and standard deviation of the modes."""
    cfg = compose("train", [f"data={data}"]).data
    return torch.tensor([list(centre) for centre in cfg.centres]), cfg.std


def judged(frame: Tensor, data: str) -> dict[str, float]:
    """`modes_covered` and `modes_quality` of points (N, 2)."""
    centres, std = mixture(data)
    return coverage(mode_of(frame, centres, std), len(centres))


def benchmark(data: str, steps: int, seed: int, folder: Path) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Every loss, with and without penalties; the points of each one's checkpoints, without penalties of the last."""
    result: dict[str, Any] = {
        "benchmark": "gan_modes",
        "settings": {"data": data, "modes": len(mixture(data)[0]), "steps": steps, "seed": seed, "points": POINTS},
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "pytorch-lightning"),
        "rows": {loss: {} for loss in LOSSES},
    }
    film: dict[str, list[Tensor]] = {loss: [] for loss in LOSSES}
    for name, variants in (("penalised", LOSSES), ("plain", PLAIN)):
        for loss, settings in variants.items():
            checkpoints, sec = train(loss, settings, data, steps, seed, folder / f"{loss}-{name}")
            frames = [points(path) for path in (checkpoints if name == "penalised" else checkpoints[-1:])]
            film[loss] += frames
            row = {"settings": settings, "cpu_sec": sec, **judged(frames[-1], data)}
            result["rows"][loss][name] = row
            print(f"{loss}, {name}: {row}", file=sys.stderr, flush=True)
    return result, film


def table(result: dict[str, Any]) -> str:
    """Modes covered, share of good points and seconds of every loss, with penalties and without."""
    k, lines = result["settings"]["modes"], []
    for loss, row in result["rows"].items():
        with_it, without = row["penalised"], row.get("plain")
        beside = ", ".join(s.removeprefix("model.") for s in with_it["settings"])
        numbers = [
            cell
            for found in (with_it, without)
            for cell in ((f"{found['modes_covered'] * k:.0f}", f"{found['modes_quality']:.2f}") if found else ("", ""))
        ]
        lines.append([f"`{loss}`", f"`{beside}`" if beside else "", *numbers, f"{with_it['cpu_sec']:.0f}"])
    head = ["loss", "own settings", f"modes of {k}", "good points", "without penalties: modes", "good points"]
    return markdown_table([*head, "processor seconds"], lines)


def picture(film: dict[str, list[Tensor]], centres: Tensor) -> Image.Image:
    """A row for each loss: points over circles around the modes at even steps, and at the end without penalties."""
    font, left, top = ImageFont.load_default(12), 110, 20
    columns = max(map(len, film.values()))
    sheet = Image.new("RGB", (left + columns * (PANEL + 4), top + len(film) * (PANEL + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        title = f"{column + 1}/{FRAMES} of the run" if column < FRAMES else "no penalties, the end"
        draw.text((left + column * (PANEL + 4), 3), title, fill="black", font=font)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x + 1) / 2 * (PANEL - 1), (1 - y) / 2 * (PANEL - 1)

    for row, (loss, frames) in enumerate(film.items()):
        draw.text((6, top + row * (PANEL + 4) + PANEL // 2 - 6), loss, fill="black", font=font)
        for column, frame in enumerate(frames):
            x0, y0 = left + column * (PANEL + 4), top + row * (PANEL + 4)
            draw.rectangle((x0, y0, x0 + PANEL - 1, y0 + PANEL - 1), outline="lightgrey")
            for x, y in (place(*centre) for centre in centres.tolist()):
                draw.ellipse((x0 + x - 7, y0 + y - 7, x0 + x + 7, y0 + y + 7), outline="orange")
            spots = [place(*point) for point in frame[:1500].clamp(-1, 1).tolist()]
            draw.point([(x0 + x, y0 + y) for x, y in spots], fill="navy")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_modes", description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("ring", "grid"), default="ring")
    parser.add_argument("--steps", type=positive(int), default=4000, help="updates of the discriminator (default 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=positive(int), default=1)
    parser.add_argument("--dir", type=Path, help="where the runs go, and stay (default: a temporary folder)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        result, film = benchmark(args.data, args.steps, args.seed, args.dir or Path(temporary))
    name = f"gan_modes_{args.data}"
    write_json(RESULTS / f"{name}.json", result)
    picture(film, mixture(args.data)[0]).save(REPO / "docs" / "images" / f"{name}.png", optimize=True)
    PAGE.write_text(fill(PAGE.read_text(), name, f"\n{table(result)}\n\n{describe(result)}\n\n", PAGE.name))
    print(table(result))


if __name__ == "__main__":
    run(main)
