"""DDPM, EDM, flow matching, denoising-diffusion-pytorch and our GAN after equal computation on Fashion-MNIST.

python -m benchmarks.diffusion_table --peer-python PEER/bin/python [--cpu-minutes 20 --n 10000 --rows ddpm edm …] [-- data.root=…]

Each row trains in a process of its own on one thread for so many processor minutes, start-up, reading and saving included:
minutes of the clock say little on a machine that others use. Rows that --dir holds are not trained again, and --rows of
several calls come together in one table. Fills the table of docs/diffusion_models.md where that page has a place for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import (
    REPO, RESULTS, machine, markdown_table, peer_versions, positive, provenance, run, whole_data, write_json,
)  # fmt: skip
from benchmarks.gan_mimicry import read_images
from benchmarks.gan_table import QUIET
from benchmarks.peer_ddpm import processor_sec
from benchmarks.tables import describe, fill
from contracts import HasLikelihood, Request
from runtime.bfloat16 import sampling_precision
from evaluation.drawing_cost import count
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.images import to_uint8
from evaluation.metrics.likelihood import bits_per_dim
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose
from runtime.bfloat16 import cpu_prefers_bf16

PAGE, PICTURE = REPO / "docs" / "diffusion_models.md", REPO / "docs" / "images" / "diffusion_table.png"
OURS = ("ddpm", "edm", "flow", "gan")
# The learning rate of its README, and one for short trainings. Its net has about the parameters of ours.
PEERS = {"denoising": 8e-5, "denoising_fast": 1e-3}
PEER_NET = {"dim": 32, "dim_mults": [1, 2, 2]}
ROWS = (*OURS, *PEERS)
INSTALL = "python -m venv PEER && PEER/bin/pip install denoising-diffusion-pytorch, then add --peer-python PEER/bin/python"
PROBES = (10, 50)  # steps of the two short trainings whose difference is the cost of a step
SHOWN, COLUMNS, BATCH = 48, 16, 250
LIKELIHOODS = {"bound": "bits/dim by the bound", "ode_density": "bits/dim by the ODE"}
ANCHOR_BPD = 4.588  # of pixels drawn independently, each from its own frequencies of values


@dataclass(frozen=True)
class Settings:
    """What every row is given."""

    cpu_minutes: float = 20.0
    n: int = 10_000
    likelihood_images: int = 200
    peer_steps: int = 250
    seed: int = 0


# ---- a row of ours ----


def spent(preset: str, steps: int, run_dir: Path, overrides: Sequence[str]) -> float:
    """Processor seconds of a training of so many steps, from its start to the saved model."""
    import train

    began = processor_sec()
    cut = f"trainer.max_steps={steps}"
    train.main([f"model={preset}", "trainer=cpu", f"run_dir={run_dir}", *QUIET, *overrides, cut])
    return processor_sec() - began


def steps_in(cpu_sec: float, few: float, many: float, probes: tuple[int, int]) -> int:
    """Steps that fit processor seconds, from what two short trainings took: their difference is free of the start-up.

    Raises: ValueError if the seconds do not even hold the start-up.
    """
    per_step = max((many - few) / (probes[1] - probes[0]), 1e-4)
    start_up = max(few - probes[0] * per_step, 0.0)
    if cpu_sec <= start_up:
        raise ValueError(f"{cpu_sec:.0f} processor seconds are too few: the start of a training alone takes {start_up:.0f}")
    return max(1, int((cpu_sec - start_up) / per_step))


def train_ours(preset: str, s: Settings, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains a preset below `out` unless it was, and returns the facts of that training."""
    facts_file, given = out / "training.json", [f"seed={s.seed}", *overrides]
    if not facts_file.exists():
        shutil.rmtree(out / "run", ignore_errors=True)  # of a training that did not end: its seconds are not known
        with tempfile.TemporaryDirectory() as probe:
            spent(preset, 2, Path(probe) / "warm", given)
            few, many = (spent(preset, steps, Path(probe) / str(steps), given) for steps in PROBES)
        steps = steps_in(60 * s.cpu_minutes, few, many, PROBES)
        print(f"{preset}: {(many - few) / (PROBES[1] - PROBES[0]):.3f} processor seconds a step, {steps} steps", flush=True)
        cpu_sec = spent(preset, steps, out / "run", given)
        module, _, info = load_module(out / "run")
        parameters = sum(p.numel() for p in (module.generator if preset == "gan" else module).parameters())
        facts = {"steps": module.optimizer_steps, "images": info["images_seen"], "cpu_sec": cpu_sec}
        write_json(facts_file, facts | {"parameters": parameters})
    return json.loads(facts_file.read_text())


def draw(module: Any, n: int, out: Path, bf16: bool, seed: int = 0) -> tuple[Tensor, dict[str, float]]:
    """n images uint8 and what one costs; the parts that `out` holds already are not drawn again."""
    parts, cost = [], []
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, n, BATCH):
        part, size = out / f"{start}.npz", min(BATCH, n - start)
        if not part.exists():
            began, used = time.perf_counter(), processor_sec()
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                image = module.sample(Request(size), seeds=list(range(seed + start, seed + start + size))).float()
            sec = time.perf_counter() - began, processor_sec() - used
            fresh = part.with_name(f"new-{start}.npz")
            np.savez(fresh, image=to_uint8(image).numpy(), sec=np.array(sec))
            os.replace(fresh, part)
            left = sec[0] * (n - start - size) / size / 60
            print(f"drawn {start + size} of {n}, about {left:.1f} min left", flush=True)
        with np.load(part) as found:
            parts.append(torch.from_numpy(found["image"]))
            cost.append(found["sec"])
    sec, cpu_sec = np.stack(cost).sum(0) / n
    nfe = count(module, lambda: module.sample(Request(1), seeds=[0]))["nfe"]
    return torch.cat(parts), {"sec_per_image": float(sec), "cpu_sec_per_image": float(cpu_sec), "calls": nfe}


def bits(module: Any, data: Any, n: int) -> dict[str, float]:
    """Bits per dimension of the first n test images, by column of the model's likelihood; empty where it has none."""
    if not isinstance(module, HasLikelihood) or not n:
        return {}
    columns: dict[str, list[Tensor]] = {}
    for start in range(0, n, 50):
        items = data.test_dataset.__getitems__([(i, i) for i in range(start, min(start + 50, n))])
        batch = {"image": items["image"], "seed": torch.arange(start, start + len(items["image"]))} | {
            k: v for k, v in items.items() if k == "label"
        }
        with torch.no_grad():
            found = module.likelihood(batch)
        for name, column in found.items():
            columns.setdefault(name, []).append(column)
    dim = items["image"][0].numel()
    return {
        name.removesuffix("_nats"): float(bits_per_dim(torch.cat(parts).double(), dim, name.endswith("_density_nats")).mean())
        for name, parts in columns.items()
    }


def our_row(preset: str, s: Settings, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything of one row of ours; leaves its first images in `out`."""
    torch.set_num_threads(1)
    facts = train_ours(preset, s, out, overrides)
    module, config, _ = load_module(out / "run")
    test, _ = read_images(compose("train", [f"model={preset}", *overrides]), s.n)
    image_u8, cost = draw(module, s.n, out / "draws", sampling_precision("auto", config, "cpu") == "bf16")
    data = instantiate(compose("train", [f"model={preset}", *overrides]).data)
    data.setup()
    return facts | cost | judged(test, image_u8, out) | {"bpd": bits(module, data, min(s.likelihood_images, s.n))}


def judged(test: Tensor, image_u8: Tensor, out: Path) -> dict[str, float]:
    """The Fréchet distance; the first images are kept for the picture."""
    np.save(out / "shown.npy", image_u8[:SHOWN].numpy())
    extractor = EfficientNetLite0()
    return {"fd": frechet_of_features(extractor(test), extractor(image_u8))}


# ---- a row of the peer ----


def peer_row(name: str, s: Settings, out: Path, python: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Everything of one row of denoising-diffusion-pytorch."""
    train_u8, test = read_images(compose("train", ["model=ddpm", *overrides]), s.n)
    files = {"images": out / "train.npy", "draws": out / "draws.npy", "report": out / "report.json"}
    job = {
        **{key: str(path) for key, path in files.items()}, **PEER_NET,
        "side": train_u8.shape[-1], "lr": PEERS[name], "cpu_sec": 60 * s.cpu_minutes, "n": s.n,
        "steps": s.peer_steps, "seed": s.seed, "bf16": cpu_prefers_bf16(),
    }  # fmt: skip
    if not files["report"].exists():
        np.save(files["images"], train_u8.numpy())
        write_json(out / "peer.json", job)
        command = [python, "-m", "benchmarks.peer_ddpm", str(out / "peer.json")]
        subprocess.run(command, cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        files["images"].unlink()
    report = json.loads(files["report"].read_text())
    return report | judged(test, torch.from_numpy(np.load(files["draws"])), out) | {"bpd": {}}


# ---- all rows ----


def make_row(name: str, s: Settings, folder: Path, python: str, overrides: Sequence[str]) -> None:
    """Writes the row's file below `folder` unless it is there.

    Raises: ValueError if the folder holds a row with other settings.
    """
    out, job = folder / name, asdict(s) | {"overrides": list(overrides)}
    if (out / "job.json").exists() and json.loads((out / "job.json").read_text()) != job:
        raise ValueError(f"{out} holds a row with other settings: remove it or choose another --dir")
    write_json(out / "job.json", job)
    if not (out / "row.json").exists():
        found = peer_row(name, s, out, python, overrides) if name in PEERS else our_row(name, s, out, overrides)
        write_json(out / "row.json", found)


def make_rows(
    names: Sequence[str], jobs: int, words: Sequence[str], folder: Path, benchmark: str = "diffusion_table"
) -> None:
    """Makes rows of a benchmark in processes of one thread each, at most `jobs` at once. Raises ValueError if one fails."""
    waiting, running, failed = list(names), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                (folder / name).mkdir(parents=True, exist_ok=True)
                log = (folder / name / "log.txt").open("a")
                command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--only-row", name, *words]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                running[name] = subprocess.Popen(command, cwd=REPO, stdout=log, stderr=log, env=environment)
                print(f"{name}: started, {log.name}", file=sys.stderr, flush=True)
            time.sleep(0.2)
            for name, process in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[name]
                    print(f"{name}: {'failed' if code else 'done'}", file=sys.stderr, flush=True)
                    failed += [name] if code else []
    finally:
        for process in running.values():  # of a command that was stopped
            process.terminate()
    if failed:
        lines = (folder / failed[0] / "log.txt").read_text().strip().splitlines()
        raise ValueError(f"row {failed[0]} failed: {lines[-1] if lines else 'it says nothing'}")


def merged(s: Settings, folder: Path, versions: dict[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    """The rows that `folder` holds, with the distance of real images, as what goes into the JSON."""
    train_u8, test = read_images(compose("train", ["model=ddpm", *overrides]), s.n)
    extractor = EfficientNetLite0()
    rows = {"real images": {"fd": frechet_of_features(extractor(test), extractor(train_u8[: s.n]))}}
    shown = [test[:SHOWN]]
    for name in ROWS:
        if (folder / name / "row.json").exists():
            rows[name] = json.loads((folder / name / "row.json").read_text())
            shown.append(torch.from_numpy(np.load(folder / name / "shown.npy")))
    draw_picture(list(rows), shown)
    return {
        "benchmark": "diffusion_table",
        "settings": asdict(s) | {"overrides": " ".join(overrides) or "none"},
        "machine": machine(1),
        **provenance("torch", "timm"),
        "peer_versions": versions,
        "rows": rows,
    }


def draw_picture(names: Sequence[str], shown: Sequence[Tensor]) -> None:
    """The first images of each row, none chosen."""
    captions = [name if i == 0 else "" for name, images in zip(names, shown) for i in range(len(images))]
    picture = captioned_grid(torch.cat(list(shown)), captions, COLUMNS)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width // 2, picture.height // 2)).convert("L").save(PICTURE, optimize=True)  # all of them are grey


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = []
    for name, row in result["rows"].items():
        counts = [f"{row[k]:,}" if k in row else "–" for k in ("steps", "images", "parameters")]
        bpd = [f"{row['bpd'][k]:.3f}" if k in row.get("bpd", {}) else "–" for k in LIKELIHOODS]
        cost = [f"{row['calls']}", f"{row['cpu_sec_per_image']:.3g}"] if "calls" in row else ["–", "–"]
        minutes = f"{row['cpu_sec'] / 60:.1f}" if "cpu_sec" in row else "–"
        lines.append([name, f"{row['fd']:.2f}", *bpd, minutes, *counts, *cost])
    head = ["", "fd_efficientnet_lite0", *LIKELIHOODS.values(), "processor minutes", "steps", "images", "parameters"]
    head += ["calls an image", "seconds an image"]
    return f"{markdown_table(head, lines)}\n\nPixels drawn independently from their frequencies of values: {ANCHOR_BPD} bits/dim."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion_table", description=__doc__.splitlines()[0])
    for name, kind, text in (
        ("cpu_minutes", float, "processor minutes of training for each"),
        ("n", int, "images of each set"),
        ("likelihood_images", int, "test images for bits/dim"),
        ("peer_steps", int, "sampling steps of the peer; 250 are its README's"),
    ):
        default = getattr(Settings, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=positive(kind), default=default, help=f"{text} (default {default})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="to make; others are kept")
    parser.add_argument("--jobs", type=positive(int), default=1, help="rows at once (default 1)")
    parser.add_argument("--peer-python", default=sys.executable, help="one that has denoising-diffusion-pytorch")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "diffusion_table", help="folder of the rows")
    parser.add_argument("--out", type=Path, default=RESULTS / "diffusion_table.json", help="where the JSON goes")
    parser.add_argument("--only-row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of our runs and the data, after --, for instance data.root=DIR")
    args = parser.parse_args(argv)
    s = Settings(args.cpu_minutes, args.n, args.likelihood_images, args.peer_steps, args.seed)
    folder = args.dir.resolve()
    if args.only_row:
        make_row(args.only_row, s, folder, args.peer_python, whole_data(args.overrides))
        return
    versions = {}
    if set(args.rows) & set(PEERS):
        versions = peer_versions(args.peer_python, ("denoising-diffusion-pytorch", "ema-pytorch", "torch"), INSTALL)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(s).items()]
    words += [f"--peer-python={args.peer_python}", f"--dir={folder}", "--", *args.overrides]
    make_rows(args.rows, args.jobs, words, folder)
    result = merged(s, folder, versions, whole_data(args.overrides))
    write_json(args.out, result)
    text = table(result)
    block = f"\n{text}\n\n{describe(result)}\n\n"
    if PAGE.exists() and "<!-- diffusion_table -->" in PAGE.read_text():
        PAGE.write_text(fill(PAGE.read_text(), "diffusion_table", block, PAGE.name))
    print(f"{block}{args.out}; {PICTURE}")


if __name__ == "__main__":
    run(main)
