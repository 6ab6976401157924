"""Ours, imagen-pytorch and diffusers after equal computation on one folder of captioned images: every skill, in one table.

python -m benchmarks.quality --peer-python PEER/bin/python [--cpu-minutes 30 120 --prompts 256 --rows ours … --jobs 2] [-- init=…]

Equal for all: images, captions, text embeddings (MiniLM), batches, processor minutes on one thread, prompts. Everything else is each project's own. Each row trains in a process of its own; rows that --dir holds are not made again, and
trainings of several lengths come together in one table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.caption_folder import Prompt, held_out_prompts, make_folder, real_images, score_images
from benchmarks.common import REPO, RESULTS, machine, markdown_table, peer_versions, positive, provenance, run, write_json
from benchmarks.diffusion_table import QUIET, make_rows
from benchmarks.peer_ddpm import processor_sec
from contracts import Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose

PICTURE = REPO / "docs" / "images" / "quality.png"
IMAGE_SIZE = 64
INSTALL = "python -m venv PEER && PEER/bin/pip install imagen-pytorch diffusers, then add --peer-python PEER/bin/python"
SKILLS = ("all_correct", "count", "colour", "shape", "size", "binding", "relation", "spelling")
# Row -> the program of a peer and its learning rate: the default of its own trainer, and ten times that, for trainings of minutes.
PEERS = {
    "imagen_pytorch": ("peer_imagen_pytorch", 1e-4),
    "imagen_pytorch_fast": ("peer_imagen_pytorch", 1e-3),
    "diffusers": ("peer_diffusers", 1e-4),
    "diffusers_fast": ("peer_diffusers", 1e-3),
}
ROWS = ("ours", *PEERS)
NAMES = {
    "ours": "ours: `model=imagen`", "imagen_pytorch": "imagen-pytorch, its own 1e-4", "imagen_pytorch_fast": "imagen-pytorch, learning rate 1e-3",
    "diffusers": "diffusers, its own 1e-4", "diffusers_fast": "diffusers, learning rate 1e-3",
}  # fmt: skip
GUIDANCE = 3.0  # of the peers, as in imagen-pytorch's README


@dataclass(frozen=True)
class Settings:
    """What every row is given; `peer_steps` are sampling steps of a peer."""

    cpu_minutes: float = 30.0
    images: int = 20_000
    prompts: int = 256
    batch: int = 32
    peer_steps: int = 64
    seed: int = 0


def data_of(s: Settings, where: Path) -> Path:
    """What the peers are given."""
    return where / f"data-{s.prompts}.pt"


def folder_of(s: Settings, where: Path) -> Path:
    """The rows of one length of training."""
    return where / f"{s.cpu_minutes:g}-minutes"


# ---- ours ----


def train_ours(s: Settings, out: Path, overrides: Sequence[str]) -> float:
    """Trains until the processor seconds are used up, by which the learning rate falls; returns those that were used, the start aside."""
    import train
    from callbacks.stop import Stop

    shutil.rmtree(out / "run", ignore_errors=True)  # of a training that did not end
    Stop.clock = staticmethod(processor_sec)  # this process trains nothing else
    minutes, sec = divmod(max(1, round(60 * s.cpu_minutes)), 60)
    time_limit = f"trainer.max_time=00:{minutes // 60:02}:{minutes % 60:02}:{sec:02}"
    train.main(["model=imagen", "trainer=cpu", f"run_dir={out / 'run'}", f"seed={s.seed}", *QUIET, *overrides, "trainer.max_steps=null", time_limit])
    return load_module(out / "run")[2]["train_sec"]


def our_row(s: Settings, out: Path, images: Path, overrides: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8 (N, H, W, 3) drawn by the averaged weights with the model's own settings, and facts of the training."""
    data = ["data=captions", f"data.root={images}", f"data.image_size={IMAGE_SIZE}", f"data.batch_size={s.batch}", "data.num_workers=0"]
    cpu_sec = train_ours(s, out, [*data, "callbacks.evaluate=null", *overrides])
    module, _, info = load_module(out / "run")
    facts = {"steps": info["step"], "images": info["images_seen"], "cpu_sec": cpu_sec, "parameters": sum(p.numel() for p in module.parameters())}
    prompts, began, parts = held_out_prompts(s.prompts, s.seed), time.perf_counter(), []
    with torch.inference_mode():
        for start in range(0, len(prompts), s.batch):
            part = prompts[start : start + s.batch]
            parts.append(to_uint8(module.sample(Request(len(part), texts=[p.caption for p in part]), seeds=[p.seed for p in part])))
    cost = {"sec_per_image": (time.perf_counter() - began) / len(prompts)}
    return torch.cat(parts).permute(0, 2, 3, 1).numpy(), facts | cost


# ---- the peers ----


def write_peer_data(rows: Sequence[dict[str, Any]], prompts: Sequence[Prompt], images: Path, path: Path) -> None:
    """The folder and the prompts as tensors, with captions embedded, for programs that know nothing of this repository."""
    captions = sorted({row["text"] for row in rows} | {p.caption for p in prompts})
    place = {text: i for i, text in enumerate(captions)}
    encoded = instantiate(compose("train", ["model=imagen"]).text_encoder).encode(captions)
    image_u8 = np.stack([np.asarray(Image.open(images / row["file_name"]).convert("RGB")) for row in rows])
    tensors = {
        "images_u8": torch.from_numpy(image_u8).permute(0, 3, 1, 2).contiguous(),
        "text_of": torch.tensor([place[row["text"]] for row in rows]),
        "embeds": encoded.embeds,
        "mask": encoded.mask,
        "prompt_text": torch.tensor([place[p.caption] for p in prompts]),
    }
    fresh = path.with_suffix(f".tmp-{os.getpid()}")
    torch.save(tensors, fresh)
    os.replace(fresh, path)


def peer_row(name: str, s: Settings, out: Path, data: Path, python: str) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8 (N, H, W, 3) drawn by a peer, and its report."""
    program, lr = PEERS[name]
    job = {
        "data": str(data), "out": str(out / "result.pt"), "base_size": IMAGE_SIZE // 2, "image_size": IMAGE_SIZE,
        "steps": s.peer_steps, "batch": s.batch, "seed": s.seed, "lr": lr, "guidance_scale": GUIDANCE,
        "cpu_sec": 60 * s.cpu_minutes,
    }  # fmt: skip
    write_json(out / "peer.json", job)
    command = [python, "-m", f"benchmarks.{program}", str(out / "peer.json")]
    subprocess.run(command, cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    result = torch.load(job["out"], weights_only=True)
    return result["images_u8"].permute(0, 2, 3, 1).numpy(), result["report"]


# ---- rows ----


def make_row(name: str, s: Settings, where: Path, python: str, overrides: Sequence[str]) -> None:
    """Makes a row below `where` unless it is there.

    Raises: ValueError if that folder holds a row with other settings.
    """
    out = folder_of(s, where) / name
    job = asdict(s) | {"overrides": list(overrides) if name == "ours" else []}
    if (out / "job.json").exists() and json.loads((out / "job.json").read_text()) != job:
        raise ValueError(f"{out} holds a row with other settings: remove it or choose another --dir")
    write_json(out / "job.json", job)
    if not (out / "row.json").exists():
        torch.set_num_threads(1)
        drawn = our_row(s, out, where / "images", overrides) if name == "ours" else peer_row(name, s, out, data_of(s, where), python)
        image_u8, facts = drawn
        np.save(out / "drawn.npy", image_u8)
        captioned_grid(torch.from_numpy(image_u8[:32]).permute(0, 3, 1, 2), columns=8).save(out / "drawn.png")  # to look at
        write_json(out / "row.json", facts | {"scores": judged(held_out_prompts(s.prompts, s.seed), image_u8)})


def judged(prompts: Sequence[Prompt], image_u8: np.ndarray) -> dict[str, dict[str, float]]:
    """Skill -> mean, n, low, high; `all_correct` is of the scenes with objects, `spelling` of those that are a word."""
    objects = [i for i, p in enumerate(prompts) if p.spec.kind != "word"]
    words = [i for i, p in enumerate(prompts) if p.spec.kind == "word"]
    found = score_images([prompts[i] for i in objects], image_u8[objects])
    spelled = score_images([prompts[i] for i in words], image_u8[words]) if words else {}
    return found | ({"spelling": spelled["spelling"]} if words else {})


def draw_picture(where: Path, lengths: dict[str, dict[str, Any]], prompts: Sequence[Prompt], path: Path, columns: int = 12) -> None:
    """A line for each row of the longest training, and one of real images: the first prompts, none chosen."""
    minutes = list(lengths)[-1]
    lines = {name: np.load(where / f"{minutes}-minutes" / name / "drawn.npy") for name in lengths[minutes]}
    lines["real images"] = real_images(prompts[:columns], IMAGE_SIZE)
    shown = torch.from_numpy(np.concatenate([image_u8[:columns] for image_u8 in lines.values()])).permute(0, 3, 1, 2)
    width = min(columns, len(prompts))
    captions = [name if i == 0 else "" for name in lines for i in range(width)]
    path.parent.mkdir(parents=True, exist_ok=True)
    captioned_grid(shown, captions, width).save(path, optimize=True)


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: shares in per cent, the first with its 95 % interval."""

    def cell(scores: dict[str, Any], skill: str) -> str:
        if skill not in scores:
            return "–"
        share = scores[skill]
        interval = f" [{100 * share['low']:.0f}, {100 * share['high']:.0f}]" if skill == "all_correct" else ""
        return f"{100 * share['mean']:.0f}{interval}"

    lines = []
    for minutes, rows in result["lengths"].items():
        for name, row in rows.items():
            facts = [f"{row['parameters'] / 1e6:.1f} M", f"{row['images']:,}", f"{row['sec_per_image']:.2f}"]
            lines.append([minutes, NAMES[name], *facts, *(cell(row["scores"], skill) for skill in SKILLS)])
    lines.append(["", "real images", "", "", "", *(cell(result["real"], skill) for skill in SKILLS)])
    head = ["processor minutes", "", "parameters", "images seen", "seconds an image"]
    return markdown_table([*head, *("all correct, objects" if skill == "all_correct" else skill for skill in SKILLS)], lines)


def merged(s: Settings, where: Path) -> dict[str, dict[str, Any]]:
    """Minutes -> the rows that `where` holds, of every length of training whose other settings are these."""
    lengths: dict[float, dict[str, Any]] = {}
    for name in ROWS:
        for file in where.glob(f"*-minutes/{name}/row.json"):
            job = json.loads((file.parent / "job.json").read_text())
            if {k: job[k] for k in asdict(s)} == asdict(s) | {"cpu_minutes": job["cpu_minutes"]}:
                lengths.setdefault(job["cpu_minutes"], {})[name] = json.loads(file.read_text())
    return {f"{minutes:g}": lengths[minutes] for minutes in sorted(lengths)}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    p.add_argument("--cpu-minutes", type=positive(float), nargs="+", default=[Settings.cpu_minutes], help="of training for each row; several give several trainings")
    for name, text in (("images", "in the folder"), ("prompts", "unseen prompts to draw"), ("batch", "images a step"),
                       ("peer_steps", "sampling steps of a peer")):  # fmt: skip
        default = getattr(Settings, name)
        p.add_argument(f"--{name.replace('_', '-')}", type=positive(int), default=default, help=f"{text} (default {default})")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="to make; others are kept")
    p.add_argument("--jobs", type=positive(int), default=1, help="rows at once (default 1)")
    p.add_argument("--peer-python", default=sys.executable, help="one that has imagen-pytorch and diffusers (default this)")
    p.add_argument("--dir", type=Path, default=REPO / "runs" / "quality", help="folder of everything made")
    p.add_argument("--out", type=Path, default=RESULTS / "quality.json", help="where the JSON goes")
    p.add_argument("--picture", type=Path, default=PICTURE, help="where the first pictures of each row go")
    p.add_argument("--only-row", choices=ROWS, help=argparse.SUPPRESS)
    p.add_argument("overrides", nargs="*", help="of our training, after --")
    return p


def check_peers(rows: Sequence[str], python: str) -> dict[str, str]:
    """Versions of the peers whose rows are asked for. Raises ModuleNotFoundError, FileNotFoundError in one line."""
    programs, versions = {PEERS[name][0] for name in rows if name in PEERS}, {}
    for program, package in (("peer_imagen_pytorch", "imagen-pytorch"), ("peer_diffusers", "diffusers")):
        if program in programs:
            versions |= peer_versions(python, (package, "torch"), INSTALL)
    return versions


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    shared = {k: getattr(args, k) for k in ("images", "prompts", "batch", "peer_steps", "seed")}
    lengths, where = [Settings(minutes, **shared) for minutes in args.cpu_minutes], args.dir.resolve()
    if args.only_row:
        make_row(args.only_row, lengths[0], where, args.peer_python, args.overrides)
        return
    versions = check_peers(args.rows, args.peer_python)
    prompts = held_out_prompts(args.prompts, args.seed)
    rows = make_folder(where / "images", args.images, IMAGE_SIZE, args.seed)
    if versions and not data_of(lengths[0], where).exists():
        write_peer_data(rows, prompts, where / "images", data_of(lengths[0], where))
    for s in lengths:
        words = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(s).items()]
        words += [f"--peer-python={args.peer_python}", f"--dir={where}", "--", *args.overrides]
        make_rows(args.rows, args.jobs, words, folder_of(s, where), "quality")
    result = {
        "benchmark": "quality", "settings": shared | {"overrides": " ".join(args.overrides) or "none"}, "machine": machine(1),
        **provenance("torch", "pytorch-lightning"), "peer_versions": versions,
        "lengths": merged(lengths[0], where), "real": judged(prompts, real_images(prompts, IMAGE_SIZE)),
    }  # fmt: skip
    write_json(args.out, result)
    if result["lengths"]:
        draw_picture(where, result["lengths"], prompts, args.picture)
    print(f"\n{table(result)}\n\n{args.out}; python -m benchmarks.tables puts it into benchmarks/README.md")


if __name__ == "__main__":
    run(main)
