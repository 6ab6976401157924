"""Our adversarial networks and torch-mimicry's after equal minutes on Fashion-MNIST, judged by the same code.

python -m benchmarks.gan_mimicry --peer-python PEER/bin/python [--minutes 10 --n 10000 …] [data.root=… …]

Trains experiment=gan/NAME for each of --players and mimicry's nets for each of --peers, one after the other on the
CPU, unless --dir holds the run already. Names in --peers that end in _256 have mimicry's own widths, the others about
the parameters of experiment=gan/NAME.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.common import (
    REPO, RESULTS, machine, markdown_table, peer_versions, positive, provenance, publish, run, whole_data, write_json,
)  # fmt: skip
from benchmarks.gan_table import COLUMNS, drawn, judged, trained
from benchmarks.vae_pythae import timed
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose

PICTURE = REPO / "docs" / "images" / "gan_mimicry.png"
NETS = ("sngan", "dcgan", "wgan_gp")
OWN_WIDTH = "_256"  # ngf; ndf is 128
INSTALL = (
    "python -m venv PEER && PEER/bin/pip install torch torchvision tensorboard scikit-image && "
    "PEER/bin/pip install --no-deps torch-mimicry, then add --peer-python PEER/bin/python"
)


@dataclass(frozen=True)
class Settings:
    """What both sides are given."""

    minutes: float = 10.0
    n: int = 10_000
    threads: int = torch.get_num_threads()
    seed: int = 0


# ---- the trainings ----


def sizes(module: Any) -> dict[str, int]:
    """Parameters of each player of ours."""
    return {k: sum(p.numel() for p in getattr(module, k).parameters()) for k in ("generator", "discriminator")}


def train_ours(s: Settings, name: str, folder: Path, overrides: Sequence[str]) -> Path:
    """The run of a preset. Raises ValueError if the folder holds one that was trained for other minutes."""
    path, seconds = trained(name, s.minutes, folder, ["trainer=cpu", f"seed={s.seed}", *overrides]), 60 * s.minutes
    found = load_module(path)[2]["train_sec"]
    if abs(found - seconds) > max(5, seconds / 20):
        raise ValueError(f"{path} was trained for {found:.0f} s, not {seconds:.0f}: remove it or choose another --dir")
    return path


def train_peer(
    s: Settings, python: str, name: str, folder: Path, train_u8: Tensor, overrides: Sequence[str]
) -> tuple[Tensor, dict[str, Any]]:
    """Images drawn by mimicry's net, uint8 (n, C, S, S), and its report; trained if the folder has not got them.

    Raises: ValueError if the folder holds those of another job, or the training failed.
    """
    net, out = name.removesuffix(OWN_WIDTH), folder / f"mimicry_{name}"
    goal = None
    if net == name:
        config = compose("train", [f"experiment=gan/{net}", *overrides])
        goal = sizes(instantiate(config.model))
    files = {"images": out / "train.npy", "draws": out / "draws.npy", "report": out / "report.json", "dir": out / "log"}
    job = {
        **{key: str(path) for key, path in files.items()},
        "net": net,
        "parameters": goal,
        "train_images": len(train_u8),
        "seconds": 60 * s.minutes,
        **{key: getattr(s, key) for key in ("n", "threads", "seed")},
    }
    if not files["report"].exists():
        shutil.rmtree(out, ignore_errors=True)  # of a training that did not end; mimicry would go on from it
        out.mkdir(parents=True)
        np.save(files["images"], train_u8.numpy())
        write_json(out / "job.json", job)
        timed([python, "-m", "benchmarks.peer_mimicry", str(out / "job.json")], s.threads, out / "log.txt")
    elif json.loads((out / "job.json").read_text()) != job:
        raise ValueError(f"{out} holds a run with other settings: remove it or choose another --dir")
    return torch.from_numpy(np.load(files["draws"])), json.loads(files["report"].read_text())


# ---- what judges them ----


def read_images(config: DictConfig, n: int) -> tuple[Tensor, Tensor]:
    """All training images and the first n test images, uint8, as the data module hands them out.

    Raises: ValueError for fewer than n of either.
    """
    data = instantiate(config.data)
    data.setup()
    sets = data.train_dataset, data.test_dataset
    if n > (most := min(len(part) for part in sets)):
        raise ValueError(f"--n {n}: there are {most} images to compare with")
    train, test = (
        to_uint8(part.__getitems__([(i, i) for i in range(many)])["image"])
        for part, many in zip(sets, (len(sets[0]), n))
    )
    return train, test


def benchmark(
    s: Settings, names: Sequence[str], peers: Sequence[str], python: str, folder: Path, overrides: Sequence[str]
) -> dict[str, Any]:
    """Everything measured, as what goes into the JSON; writes the picture.

    Raises:
        ModuleNotFoundError: torch-mimicry is not installed for `python`.
        ValueError: see read_images, train_ours, train_peer.
    """
    versions = peer_versions(python, ("torch-mimicry", "torch"), INSTALL)
    torch.set_num_threads(s.threads)
    result: dict[str, Any] = {
        "benchmark": "gan_mimicry",
        "settings": asdict(s) | {"overrides": " ".join(overrides) or "none"},
        "machine": machine(s.threads),
        **provenance("torch", "timm"),
        "peer_versions": versions,
    }
    train_u8, test = read_images(compose("train", [f"experiment=gan/{names[0]}", *overrides]), s.n)
    runs = {name: train_ours(s, name, folder, overrides) for name in names}
    images, facts = {"real images": train_u8[: s.n]}, {"real images": {}}
    for name in peers:
        key = f"mimicry {name}"
        images[key], facts[key] = train_peer(s, python, name, folder, train_u8, overrides)
    for name, path in runs.items():
        module, _, info = load_module(path)
        key = f"ours {name}"
        images[key] = drawn(module.eval(), s.n, s.seed)
        steps = {"steps": module.optimizer_steps, "images": module.images_seen, "seconds": info["train_sec"]}
        facts[key] = {**steps, **sizes(module), "weights": info["weights"]}
    extractor = EfficientNetLite0()
    real, order = extractor(test), sorted(images, key=lambda key: key.startswith("mimicry"))
    result["rows"] = {key: judged(extractor, real, images[key]) | facts[key] for key in order}
    shown = [test[:COLUMNS], *(images[key][:COLUMNS] for key in order[1:])]
    captions = [key if i == 0 else "" for key in order for i in range(COLUMNS)]
    picture = captioned_grid(torch.cat(shown), captions, COLUMNS)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width // 2, picture.height // 2)).save(PICTURE)
    return result


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, and what shows the picture."""
    lines = []
    for name, row in result["rows"].items():
        cells = [f"{row['fd']:.2f}", *(f"{row[k]:.3f}" for k in ("precision", "recall", "density", "coverage"))]
        counts = [f"{row[k]:,}" if k in row else "–" for k in ("steps", "images", "generator", "discriminator")]
        speed = f"{row['images'] / row['seconds']:,.0f}" if "seconds" in row else "–"
        lines.append([name, *cells, *counts[:2], speed, *counts[2:]])
    head = ["", "fd_efficientnet_lite0", "precision", "recall", "density", "coverage"]
    head += ["steps of D", "images", "images a second", "G", "D"]
    shown = f"![the first draws of each](../{PICTURE.relative_to(REPO).as_posix()})"
    return f"{markdown_table(head, lines)}\n\n{shown}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_mimicry", description=__doc__.splitlines()[0])
    for name, kind, text in (
        ("minutes", float, "of training for each"),
        ("n", int, "images of each set"),
        ("threads", int, "CPU threads"),
    ):
        default = getattr(Settings, name)
        parser.add_argument(f"--{name}", type=positive(kind), default=default, help=f"{text} (default {default})")
    parser.add_argument("--seed", type=int, default=0)
    players, peers = ["sngan", "dcgan"], ["sngan_256", "sngan", "dcgan"]
    parser.add_argument("--players", nargs="+", default=players, help="names below conf/experiment/gan")
    choices = [*NETS, *(f"{net}{OWN_WIDTH}" for net in NETS)]
    parser.add_argument("--peers", nargs="+", choices=choices, default=peers, help=f"(default {' '.join(peers)})")
    parser.add_argument("--peer-python", default=sys.executable, help="one that has torch-mimicry (default this)")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "gan_mimicry", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "gan_mimicry.json", help="where the JSON goes")
    parser.add_argument("overrides", nargs="*", help="of our runs and the data, for instance data.root=DIR")
    args = parser.parse_args()
    settings = Settings(args.minutes, args.n, args.threads, args.seed)
    result = benchmark(settings, args.players, args.peers, args.peer_python, args.dir.resolve(), whole_data(args.overrides))
    publish(args.out, result, table(result))


if __name__ == "__main__":
    run(main)
