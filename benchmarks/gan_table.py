"""Variants of the game after equal minutes on Fashion-MNIST: distances with their floor, diversity, and a picture.

python -m benchmarks.gan_table [--minutes 10 --n 10000 --players default dcgan wgan_gp sngan r3gan] [data.root=… …]

Trains model=gan, the default, and experiment=gan/NAME for that many minutes each, one after the other, unless --dir holds the run already, and
judges the averaged generators by images that nobody trained on. How many steps these minutes hold, over which learning
rates fall, is found by a short run beforehand. Fills the table of docs/gan.md and draws its picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, whole_data, write_json
from benchmarks.tables import describe, fill
from contracts import Request
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.images import to_uint8
from evaluation.metrics.precision_recall import prdc
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.build import instantiate_untrusted
from runtime.checkpoint import load_module

PAGE, PICTURE = REPO / "docs" / "gan.md", REPO / "docs" / "images" / "gan.png"
PLAYERS = ("default", "dcgan", "wgan_gp", "sngan", "r3gan")
COLUMNS, BATCH = 12, 500
QUIET = ["callbacks.validate=null", "callbacks.samples=null", "logger.wandb=null"]
PROBE_SECONDS = 40


def trained(name: str, minutes: float, folder: Path, overrides: Sequence[str]) -> Path:
    """The run of one preset, trained for so many minutes if it is not there."""
    run_dir, seconds = folder / name, 60 * minutes
    if not any((run_dir / "checkpoints").glob("step=*.ckpt")):
        with tempfile.TemporaryDirectory() as probe:
            often = ["trainer.max_steps=1000000", "callbacks.metrics_log.every_steps=20"]
            fit_for(name, min(PROBE_SECONDS, seconds / 3), Path(probe), [*often, *overrides])
            steps = max(1, int(seconds * steps_per_sec(Path(probe))))
        fit_for(name, seconds, run_dir, [f"trainer.max_steps={steps}", *overrides])
    return run_dir


def steps_per_sec(run_dir: Path) -> float:
    """How fast a run was at its end: its first steps, in which buffers are laid out, are slower."""
    _, config, found = load_module(run_dir)
    timing = run_dir / "timing.jsonl"
    lines = timing.read_text().splitlines() if timing.exists() else []
    speeds = [json.loads(line)["time/images_per_sec"] for line in lines]
    late = speeds[len(speeds) // 2 :]
    return statistics.median(late) / config.data.batch_size if late else found["step"] / found["train_sec"]


def fit_for(name: str, seconds: float, run_dir: Path, overrides: Sequence[str]) -> None:
    """Trains one preset for at most so many seconds."""
    import train

    whole = max(1, round(seconds))
    limit = f"trainer.max_time=00:{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    preset = "model=gan" if name == "default" else f"experiment=gan/{name}"
    train.main([preset, f"run_dir={run_dir}", limit, *QUIET, *overrides])


def drawn(module: Any, n: int, seed: int = 0) -> Tensor:
    """n images uint8; of a conditional model, the classes in turn."""
    parts = []
    for start in range(0, n, BATCH):
        seeds = range(seed + start, seed + min(start + BATCH, n))
        classes = [i % module.num_classes for i in seeds] if module.num_classes else None
        parts.append(to_uint8(module.sample(Request(len(seeds), labels=classes), seeds=list(seeds))))
    return torch.cat(parts)


def judged(extractor: EfficientNetLite0, real: Tensor, image_u8: Tensor) -> dict[str, float]:
    """Distance to real features, and shares of what looks real and of kinds that are there."""
    features = extractor(image_u8)
    shares = {name: float(answers.mean()) for name, answers in prdc(real, features).items()}
    return {"fd": frechet_of_features(real, features), **shares}


def benchmark(names: Sequence[str], minutes: float, n: int, folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything measured, as what goes into the JSON; writes the picture."""
    runs = {name: trained(name, minutes, folder, overrides) for name in names}
    _, config, _ = load_module(next(iter(runs.values())))
    data = instantiate_untrusted(config.data)
    data.setup("test")
    if n > (most := min(len(data.test_dataset), len(data.train_dataset))):
        raise ValueError(f"--n {n}: there are {most} images to compare with")
    test, train = (
        to_uint8(dataset.__getitems__([(i, i) for i in range(n)])["image"])
        for dataset in (data.test_dataset, data.train_dataset)
    )
    extractor = EfficientNetLite0()
    real = extractor(test)
    rows: dict[str, dict[str, float]] = {"real images": judged(extractor, real, train)}
    shown = [test[:COLUMNS]]
    for name, path in runs.items():
        module, _, info = load_module(path)
        image_u8 = drawn(module.eval(), n)
        shown.append(image_u8[:COLUMNS])
        sizes = {k: sum(p.numel() for p in getattr(module, k).parameters()) for k in ("generator", "discriminator")}
        steps = {"steps": module.optimizer_steps, "images": module.images_seen, "train_sec": info["train_sec"]}
        rows[name] = judged(extractor, real, image_u8) | steps | sizes
        print(f"{name}: {', '.join(f'{k} {v:.4g}' for k, v in rows[name].items())}", flush=True)
    captions = [name if i == 0 else "" for name in rows for i in range(COLUMNS)]
    picture = captioned_grid(torch.cat(shown), captions, COLUMNS)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width // 2, picture.height // 2)).save(PICTURE)
    settings = {"minutes each": minutes, "images": n, "overrides": " ".join(overrides) or "none"}
    return {
        "benchmark": "gan_table",
        "settings": settings,
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "timm"),
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = []
    for name, row in result["rows"].items():
        cells = [f"{row['fd']:.2f}", *(f"{row[k]:.3f}" for k in ("precision", "recall", "density", "coverage"))]
        seen = [f"{row[k]:,}" if k in row else "–" for k in ("steps", "images", "generator", "discriminator")]
        lines.append([name, *cells, f"{row['train_sec'] / 60:.1f}" if "train_sec" in row else "–", *seen])
    head = ["", "fd_efficientnet_lite0", "precision", "recall", "density", "coverage", "minutes", "steps of D", "images"]
    return markdown_table([*head, "G", "D"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_table", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=positive(float), default=10.0, help="of training for each (default 10)")
    parser.add_argument("--n", type=positive(int), default=10_000, help="images of each set (default 10,000)")
    parser.add_argument("--players", nargs="+", default=list(PLAYERS), help="default, or names below conf/experiment/gan")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "gan_table", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "gan_table.json", help="where the JSON goes")
    parser.add_argument("overrides", nargs="*", help="of every run, for instance data.root=DIR")
    args = parser.parse_args()
    result = benchmark(args.players, args.minutes, args.n, args.dir, whole_data(args.overrides))
    write_json(args.out, result)
    text = table(result)
    print(f"\n{text}\n\n{args.out}; {PICTURE}")
    PAGE.write_text(fill(PAGE.read_text(), "gan_table", f"\n{text}\n\n{describe(result)}\n\n", "docs/gan.md"))


if __name__ == "__main__":
    run(main)
