"""Quality after equal minutes: this repository's Imagen against imagen-pytorch, on one folder of captioned images.

python -m benchmarks.quality_imagen_pytorch [--minutes 8 --peer-python PEER/bin/python --out FILE]

Equal for both: images, captions, text embeddings (MiniLM), batch, threads, minutes, each net's share of them, prompts.
Everything else is each project's own: ours by train.py with its defaults, theirs by ImagenTrainer with its defaults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contracts import Request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.caption_folder import Prompt, held_out_prompts, make_folder, real_images, score_images
from benchmarks.common import (
    REPO, arguments, machine, markdown_table, peer_versions, provenance, publish, run, write_json,
)  # fmt: skip
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose

IMAGE_SIZE = 64
INSTALL = "python -m venv PEER && PEER/bin/pip install imagen-pytorch, then add --peer-python PEER/bin/python"
SKILLS = ("all_correct", "count", "colour", "shape", "size", "relation", "spelling")
TIMED_STEPS = 5
OVERHEAD = 1.1  # clipping, averaging and reading images come on top of a timed step


@dataclass(frozen=True)
class Settings:
    """What both sides are given; `peer_steps` are imagen-pytorch's sampling steps for each net."""

    minutes: float = 8.0
    images: int = 5000
    prompts: int = 128
    batch: int = 32
    threads: int = 2
    peer_steps: int = 250
    seed: int = 0


def overrides(s: Settings, folder: Path, max_steps: int, run_dir: Path) -> list[str]:
    """The command line of train.py, without what only reports."""
    minutes, seconds = divmod(max(1, round(s.minutes * 60)), 60)
    hours, minutes = divmod(minutes, 60)
    return [
        "model=imagen",
        "data=captions",
        f"data.root={folder}",
        f"data.image_size={IMAGE_SIZE}",
        f"data.batch_size={s.batch}",
        "data.num_workers=0",
        "trainer=cpu",
        f"trainer.max_time=00:{hours:02}:{minutes:02}:{seconds:02}",
        f"trainer.max_steps={max_steps}",
        "callbacks.validate=null",
        "callbacks.samples=null",
        "logger.wandb=null",
        f"seed={s.seed}",
        f"run_dir={run_dir}",
    ]


def time_stages(s: Settings, folder: Path, captions: list[str]) -> dict[str, dict[str, Any]]:
    """Per stage of ours its parameters and the seconds of a training step of it alone, on noise in place of images."""
    batch = {
        "image": torch.rand(s.batch, 3, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1,
        "caption": [captions[i % len(captions)] for i in range(s.batch)],
        "seed": torch.arange(s.batch),
    }
    found = {}
    names = list(compose("train", ["model=imagen"]).model.stages)
    for name in names:
        settings = overrides(s, folder, 1000, folder.parent / "unused")
        config = compose("train", [*settings, f"model.train_stages=[{name}]"])
        module = instantiate(config.model).train()
        optimizer, times = module.configure_optimizers(), []
        for _ in range(1 + TIMED_STEPS):
            began = time.perf_counter()
            module.losses(batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - began)
        count = sum(p.numel() for p in module.stages[name].parameters())
        found[name] = {"parameters": count, "step_sec": min(times[1:])}
    return found


def train_ours(s: Settings, folder: Path, out: Path, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Runs train.py for the minutes; the number of steps, and so the learning rate's fall, is fitted to the speed."""
    step_sec = sum(stage["step_sec"] for stage in stages.values())
    steps, run_dir = max(1, int(s.minutes * 60 / (OVERHEAD * step_sec))), out / "ours"
    env = os.environ | {"OMP_NUM_THREADS": str(s.threads)}
    subprocess.run([sys.executable, "train.py", *overrides(s, folder, steps, run_dir)], cwd=REPO, env=env, check=True)
    return {"planned_steps": steps, "stages": stages}


@torch.no_grad()
def sample_ours(s: Settings, out: Path, prompts: list[Prompt]) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8 (N, H, W, 3) by the averaged weights and the model's own sampling settings, and facts of both."""
    module, _, info = load_module(out / "ours")
    began, images = time.perf_counter(), []
    for start in range(0, len(prompts), s.batch):
        part = prompts[start : start + s.batch]
        images.append(module.sample(Request(len(part), texts=[p.caption for p in part]), seeds=[p.seed for p in part]))
    image_u8 = ((torch.cat(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    facts = {"steps": info["step"], "images": info["images_seen"], "sec": info["train_sec"], "weights": info["weights"]}
    return image_u8.permute(0, 2, 3, 1).numpy(), facts | {"sample_sec": time.perf_counter() - began}


def run_peer(
    s: Settings, python: str, folder: Path, out: Path, rows: list[dict[str, Any]], prompts: list[Prompt], share: float
) -> tuple[np.ndarray, dict[str, Any]]:
    """Hands imagen-pytorch the same images and text embeddings as tensors; uint8 (N, H, W, 3) and its report."""
    captions = sorted({row["text"] for row in rows} | {p.caption for p in prompts})
    place = {text: i for i, text in enumerate(captions)}
    encoded = instantiate(compose("train", ["model=imagen"]).text_encoder).encode(captions)
    images = np.stack([np.asarray(Image.open(folder / row["file_name"]).convert("RGB")) for row in rows])
    tensors = {
        "images_u8": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        "text_of": torch.tensor([place[row["text"]] for row in rows]),
        "embeds": encoded.embeds,
        "mask": encoded.mask,
        "prompt_text": torch.tensor([place[p.caption] for p in prompts]),
    }
    torch.save(tensors, out / "peer_data.pt")
    job = {
        "data": str(out / "peer_data.pt"),
        "out": str(out / "peer_result.pt"),
        "base_size": IMAGE_SIZE // 2,
        "image_size": IMAGE_SIZE,
        "steps": s.peer_steps,
        "batch": s.batch,
        "threads": s.threads,
        "seed": s.seed,
        "seconds": {"base": 60 * s.minutes * share, "super_resolution": 60 * s.minutes * (1 - share)},
    }
    write_json(out / "peer_job.json", job)
    command = [python, "-m", "benchmarks.peer_imagen_pytorch", str(out / "peer_job.json")]
    subprocess.run(command, cwd=REPO, env=os.environ | {"OMP_NUM_THREADS": str(s.threads)}, check=True)
    result = torch.load(job["out"], weights_only=True)
    return result["images_u8"].permute(0, 2, 3, 1).numpy(), result["report"]


def check_peer(python: str) -> dict[str, str]:
    """Versions on the peer's side. Raises ModuleNotFoundError, FileNotFoundError in one line."""
    return peer_versions(python, ("imagen-pytorch", "torch"), INSTALL)


def grid(images_u8: np.ndarray, path: Path, columns: int = 8) -> None:
    """The first 32 images as one PNG, to look at."""
    shown = images_u8[:32]
    side = shown.shape[1]
    sheet = Image.new("RGB", (columns * side, -(-len(shown) // columns) * side))
    for i, image in enumerate(shown):
        sheet.paste(Image.fromarray(image), (i % columns * side, i // columns * side))
    sheet.save(path)


def benchmark(s: Settings, peer_python: str, out: Path) -> dict[str, Any]:
    """Everything: the folder, both trainings one after the other, both sets of samples, scores.

    Raises:
        ModuleNotFoundError: imagen-pytorch is not installed for `peer_python`.
        ValueError: `out` holds an earlier run.
    """
    peer_versions = check_peer(peer_python)
    if (out / "ours").exists():
        raise ValueError(f"{out} holds an earlier run: remove it or choose another --dir")
    torch.set_num_threads(s.threads)
    result: dict[str, Any] = {
        "benchmark": "quality_imagen_pytorch",
        "settings": asdict(s) | {"image_size": IMAGE_SIZE},
        "machine": machine(s.threads),
        **provenance("torch", "pytorch-lightning"),
        "peer_versions": peer_versions,
    }
    folder = out / "images"
    rows, prompts = make_folder(folder, s.images, IMAGE_SIZE, s.seed), held_out_prompts(s.prompts, s.seed)
    stages = time_stages(s, folder, [row["text"] for row in rows])
    base_share = stages["base"]["step_sec"] / sum(stage["step_sec"] for stage in stages.values())
    ours = train_ours(s, folder, out, stages)
    image_ours, facts = sample_ours(s, out, prompts)
    image_peer, peer = run_peer(s, peer_python, folder, out, rows, prompts, base_share)
    result |= {"base_share_of_time": base_share, "ours": ours | facts, "imagen_pytorch": peer, "scores": {}}
    shown = {"ours": image_ours, "imagen_pytorch": image_peer, "real": real_images(prompts, IMAGE_SIZE)}
    for name, images in shown.items():
        result["scores"][name] = score_images(prompts, images)
        grid(images, out / f"{name}.png")
    return result


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table: shares in per cent with 95 % intervals."""

    def cell(name: str, skill: str) -> str:
        row = result["scores"][name].get(skill)
        return f"{100 * row['mean']:.1f} ({100 * row['low']:.0f}–{100 * row['high']:.0f})" if row else "none asked"

    names = ("ours", "imagen_pytorch", "real")
    rows = [["all correct" if skill == "all_correct" else skill, *(cell(name, skill) for name in names)] for skill in SKILLS]
    ours, peer, n = result["ours"], result["imagen_pytorch"], result["settings"]["prompts"]
    nets = ("base", "super_resolution")
    millions = ["+".join(f"{side[net]['parameters'] / 1e6:.2f}" for net in nets) for side in (ours["stages"], peer)]
    rows.append(["parameters, millions", *millions, ""])
    rows.append(["training steps", str(ours["steps"]), "+".join(str(peer[net]["steps"]) for net in nets), ""])
    rows.append(["sampling, seconds an image", f"{ours['sample_sec'] / n:.3g}", f"{peer['sample_sec'] / n:.3g}", ""])
    return markdown_table(["%", "ours", "imagen-pytorch", "real images"], rows)


def main() -> None:
    options = {
        "minutes": "of training for each side",
        "images": "in the folder",
        "prompts": "unseen prompts to sample and score",
        "batch": "images a step",
        "threads": "CPU threads",
        "peer_steps": "sampling steps of each of imagen-pytorch's nets",
    }
    parser = arguments("quality_imagen_pytorch", __doc__, Settings, options)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python", default=sys.executable, help="one that has imagen-pytorch (default this)")
    where = REPO / "runs" / "quality_imagen_pytorch"
    parser.add_argument("--dir", type=Path, default=where, help="folder of everything made")
    args = vars(parser.parse_args())
    peer_python, folder, out = args.pop("peer_python"), args.pop("dir").resolve(), args.pop("out")
    result = benchmark(Settings(**args), peer_python, folder)
    publish(out, result, table(result))


if __name__ == "__main__":
    run(main)
