"""Likelihood and training speed of our variational autoencoder and of pythae's, with the same nets on the same images.

python -m benchmarks.vae_pythae --peer-python PEER/bin/python [--data-root DIR --runs mnist:mlp --images 180000]

Equal for both: nets, images, binarisation, epochs, batch, Adam at one constant rate, threads, and what judges them (our
importance-weighted bound). Not equal: the trainers. Beside them stands what train.py makes of the same with the
optimiser, the schedule and the averaging of conf/model/vae.yaml.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from benchmarks.common import (
    REPO, RESULTS, machine, markdown_table, peer_versions, positive, provenance, run, write_json,
)  # fmt: skip
from rng.hashing import stable_hash
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.config import compose
from runtime.bfloat16 import cpu_prefers_bf16

INSTALL = "python -m venv PEER && PEER/bin/pip install pythae, then add --peer-python PEER/bin/python"
DATASETS = ("mnist", "fashion_mnist")
RUNS = ("mnist:mlp", "fashion_mnist:mlp", "fashion_mnist:conv")


@dataclass(frozen=True)
class Settings:
    """What both sides are given."""

    images: int = 180_000  # that each training sees, rounded to whole epochs
    batch: int = 128
    learning_rate: float = 1e-3  # constant, where both have the same optimiser
    num_val: int = 1000  # training images that neither side sees
    test_images: int = 1000
    k: int = 500  # importance samples
    check_images: int = 100  # test images whose bound pythae computes too
    threads: int = 2
    seed: int = 0


# ---- what both are given ----


def overrides(s: Settings, dataset: str, codec: str, data_root: Path | None) -> list[str]:
    """The command line of train.py, without what only reports, its length and its folder."""
    return [
        "model=vae",
        f"data={dataset}",
        f"codec={codec}",
        "likelihood=bernoulli",
        *([f"data.root={data_root}"] if data_root else []),
        f"data.num_val={s.num_val}",
        f"data.batch_size={s.batch}",
        "data.num_workers=0",
        "trainer=cpu",
        "callbacks.validate=null",
        "callbacks.samples=null",
        "logger.wandb=null",
        f"seed={s.seed}",
    ]


def peers_optimiser(s: Settings) -> list[str]:
    """What makes train.py optimise as pythae's trainer does: Adam, a constant rate, no clipping, no averaging."""
    adam = f"{{_target_: torch.optim.Adam, _partial_: true, fused: true, lr: {s.learning_rate}}}"
    nothing = ("model.lr_schedule=null", "model.clip_norm=null", "callbacks.ema=null")
    return ["~model.optimizer", f"+model.optimizer={adam}", *nothing]


def read_data(s: Settings, cfg: DictConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Training images uint8 (N, C, S, S), and one batch of test images, binarised once and for all.

    Raises: ValueError for fewer test images than asked for.
    """
    data = instantiate(cfg.data)
    data.setup()
    train, test = data.train_dataset, data.test_dataset
    if len(test) < s.test_images:
        raise ValueError(f"--test-images {s.test_images}: {data.name} has {len(test)} of them")
    # Spread over the file: the first half of MNIST's test images is known to be the easier one.
    keys = [(i * len(test) // s.test_images, stable_hash("test", i)) for i in range(s.test_images)]
    return train.image_u8[train.rows], test.__getitems__(keys)


def net_of(node: DictConfig) -> tuple[str, dict[str, Any]]:
    """Class name and arguments of a net of networks/autoencoder.py, from the node that configures it."""
    plain = OmegaConf.to_container(node, resolve=True)
    module, _, name = plain.pop("_target_").rpartition(".")
    assert module == "networks.autoencoder", f"pythae cannot be given a net of {module}"
    return name, {key: value for key, value in plain.items() if not key.startswith("_")}


# ---- the two trainings ----


def train_ours(s: Settings, arguments: list[str], steps: int, run_dir: Path) -> tuple[Any, dict[str, Any]]:
    """Runs train.py and returns the module as evaluate.py would take it, and facts of the run."""
    command = [sys.executable, "train.py", *arguments, f"trainer.max_steps={steps}", f"run_dir={run_dir}"]
    total_sec = timed(command, s.threads, run_dir.with_suffix(".log"))
    module, cfg, info = load_module(run_dir)
    return module, {
        "images": info["images_seen"],
        "train_sec": info["train_sec"],
        "total_sec": total_sec,
        "parameters": sum(p.numel() for p in module.parameters()),
        "optimizer": cfg.model.optimizer._target_.rpartition(".")[2],
        "precision": cfg.trainer.precision or ("bf16-mixed" if cpu_prefers_bf16() else "32-true"),
        "weights": info["weights"],
    }


def train_peer(
    s: Settings, python: str, cfg: DictConfig, epochs: int, train_u8: Tensor, test: dict[str, Tensor], out: Path
) -> tuple[Any, dict[str, Any]]:
    """Lets pythae train the same nets; returns our module with its weights, which compute the same, and its report."""
    binary = (test["image"][: s.check_images] + 1) / 2
    torch.save({"train_u8": train_u8.contiguous(), "test": binary}, out / "peer_data.pt")
    job = {
        "data": str(out / "peer_data.pt"),
        "out": str(out / "peer_result.pt"),
        "dir": str(out / "pythae"),
        "encoder": net_of(cfg.model.encoder),
        "decoder": net_of(cfg.model.decoder),
        "latent_dim": cfg.model.latent_dim,
        "learning_rate": s.learning_rate,
        "epochs": epochs,
        "batch": s.batch,
        "k": s.k,
        "threads": s.threads,
        "seed": s.seed,
    }
    write_json(out / "peer_job.json", job)
    command = [python, "-m", "benchmarks.peer_pythae", str(out / "peer_job.json")]
    total_sec = timed(command, s.threads, out / "pythae.log")
    result = torch.load(job["out"], weights_only=True)
    report, module = result["report"], instantiate(cfg.model).eval()
    for name, weights in result["weights"].items():
        getattr(module, name).load_state_dict(weights)
    return module, report | {"total_sec": total_sec - report["check_sec"]}


def timed(command: list[str], threads: int, log: Path) -> float:
    """Seconds of a process from start to end; what it says goes to a file, whose last line an error repeats."""
    with open(log, "w") as file:
        env, began = os.environ | {"OMP_NUM_THREADS": str(threads)}, time.perf_counter()
        code = subprocess.run(command, cwd=REPO, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
    if code:
        last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
        raise ValueError(f"{' '.join(command[:3])} … ended with {code}: {' '.join(last)} (all of it in {log})")
    return time.perf_counter() - began


# ---- what judges them ----


def judge(module: Any, test: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Upper bounds of -log p(x) in nats, (N,) each: `nll` from k importance samples, `elbo` from as many draws."""
    module.eval_importance_samples = (k,)
    found = module.likelihood({"image": test["image"], "seed": test["seed"]})
    return {"nll": found[f"iwae_{k}_nats"], "elbo": found["elbo_nats"]}


def difference(ours: Tensor, peer: Tensor) -> list[float]:
    """Mean of ours - peer over the test images, and half of its 95 % interval: that of test images, not of trainings."""
    each = ours - peer
    return [float(each.mean()), float(1.96 * each.std() / math.sqrt(len(each)))]


def compare(
    s: Settings, dataset: str, codec: str, python: str, data_root: Path | None, out: Path
) -> dict[str, Any]:
    """The trainings on one data set with one pair of nets, one after the other, and what judges them."""
    own = overrides(s, dataset, codec, data_root)
    equal = [*own, *peers_optimiser(s)]
    cfg = compose("train", equal)
    train_u8, test = read_data(s, cfg)
    epochs = max(1, round(s.images / len(train_u8)))
    steps = -(-epochs * len(train_u8) // s.batch)
    out.mkdir(parents=True)
    trained = {
        "ours": train_ours(s, equal, steps, out / "ours"),
        "pythae": train_peer(s, python, cfg, epochs, train_u8, test, out),
        "ours_default": train_ours(s, own, steps, out / "ours_default"),
    }
    bounds = {name: judge(module, test, s.k) for name, (module, _) in trained.items()}
    result: dict[str, Any] = {"epochs": epochs, "train_images": len(train_u8)}
    for name, (_, facts) in trained.items():
        means = {f"{bound}_nats": float(value.mean()) for bound, value in bounds[name].items()}
        result[name] = facts | means | {"images_per_sec": facts["images"] / facts["train_sec"]}
    peer = result["pythae"]
    for name in ("ours", "ours_default"):
        against = {f"{b}_difference_nats": difference(v, bounds["pythae"][b]) for b, v in bounds[name].items()}
        ratio = result[name]["images_per_sec"] / peer["images_per_sec"]
        result[name] |= against | {"speed_ratio": ratio, "total_ratio": peer["total_sec"] / result[name]["total_sec"]}
    own_code = float(bounds["pythae"]["nll"][: s.check_images].mean())
    result["check"] = {"ours_nats": own_code, "pythae_nats": peer.pop("get_nll_nats")}
    return result


def benchmark(
    s: Settings, runs: list[tuple[str, str]], peer_python: str, data_root: Path | None, out: Path
) -> dict[str, Any]:
    """Every run (data set, codec), as what goes into the JSON.

    Raises:
        ModuleNotFoundError: pythae is not installed for `peer_python`.
        ValueError: `out` holds an earlier run, or a training failed.
    """
    versions = peer_versions(peer_python, ("pythae", "torch", "pydantic"), INSTALL)
    if out.exists():
        raise ValueError(f"{out} holds an earlier run: remove it or choose another --dir")
    torch.set_num_threads(s.threads)
    result: dict[str, Any] = {
        "benchmark": "vae_pythae",
        "settings": asdict(s),
        "machine": machine(s.threads),
        **provenance("torch", "pytorch-lightning"),
        "peer_versions": versions,
        "results": {},
    }
    for dataset, codec in runs:
        name = f"{dataset}:{codec}"
        result["results"][name] = compare(s, dataset, codec, peer_python, data_root, out / f"{dataset}_{codec}")
        print(f"{name}: done", flush=True)
    return result


def cell(side: dict[str, Any], key: str, form: str, against: str) -> str:
    """A number, and in brackets how it stands against pythae's: a difference with its interval, or a ratio."""
    beside = side.get(against)
    if beside is None:
        return f"{side[key]:{form}}"
    if isinstance(beside, list):
        return f"{side[key]:{form}} ({beside[0]:+.2f} ± {beside[1]:.2f})"
    return f"{side[key]:{form}} ({beside:.2f}x)"


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table; brackets compare with pythae: differences with 95 % intervals, times faster."""
    settings, rows = result["settings"], []
    lines = (
        (f"NLL, nats (IWAE-{settings['k']})", "nll_nats", ".2f", "nll_difference_nats"),
        ("negative ELBO, nats", "elbo_nats", ".2f", "elbo_difference_nats"),
        ("training images a second", "images_per_sec", ",.0f", "speed_ratio"),
        ("seconds from start to saved model", "total_sec", ".1f", "total_ratio"),
        ("parameters", "parameters", ",", ""),
        ("optimiser", "optimizer", "", ""),
        ("precision of training", "precision", "", ""),
    )
    for name, r in result["results"].items():
        dataset, codec = name.split(":")
        rows.append([f"**{dataset}, codec={codec}**, {r['epochs']} epochs of {r['train_images']:,} images", "", "", ""])
        for label, *what in lines:
            rows.append([label, *(cell(r[side], *what) for side in ("ours", "pythae", "ours_default"))])
        label = f"NLL of {settings['check_images']} images by our code and by get_nll"
        rows.append([label, "", f"{r['check']['ours_nats']:.2f} and {r['check']['pythae_nats']:.2f}", ""])
    return markdown_table(["", "ours, pythae's optimiser", "pythae", "ours as it is"], rows)


def run_name(text: str) -> tuple[str, str]:
    """An argparse type: data set and codec with a colon between them."""
    dataset, _, codec = text.partition(":")
    codecs = sorted(path.stem for path in (REPO / "conf" / "codec").glob("*.yaml"))
    if dataset not in DATASETS or codec not in codecs:
        what = f"one of {', '.join(DATASETS)}, a colon, and one of {', '.join(codecs)}"
        raise argparse.ArgumentTypeError(f"{text!r}: give {what}, for instance {RUNS[0]}")
    return dataset, codec


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vae_pythae", description=__doc__.splitlines()[0])
    for name, text in (
        ("images", "that each training sees, rounded to whole epochs"),
        ("batch", "training images a step"),
        ("num_val", "training images held out from both"),
        ("test_images", "to judge by"),
        ("k", "importance samples of the NLL"),
        ("check_images", "of them whose NLL pythae's get_nll computes too"),
        ("threads", "CPU threads"),
    ):
        default = getattr(Settings, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=positive(int), default=default, help=f"{text} (default {default})")
    rate = Settings.learning_rate
    parser.add_argument("--learning-rate", type=positive(float), default=rate, help=f"of Adam (default {rate})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=run_name, nargs="+", default=[run_name(r) for r in RUNS],
                        metavar="DATA:CODEC", help=f"(default {' '.join(RUNS)})")  # fmt: skip
    parser.add_argument("--data-root", type=Path, help="folder with the data sets (default: where train.py looks)")
    parser.add_argument("--peer-python", default=sys.executable, help="one that has pythae (default this)")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "vae_pythae", help="folder of everything made")
    parser.add_argument("--out", type=Path, default=RESULTS / "vae_pythae.json", help="where the JSON goes")
    args = vars(parser.parse_args())
    runs, python, root, folder, out = (args.pop(n) for n in ("runs", "peer_python", "data_root", "dir", "out"))
    result = benchmark(Settings(**args), runs, python, root and root.resolve(), folder.resolve())
    write_json(out, result)
    print(f"\n{table(result)}\n\n{out}; python -m benchmarks.tables puts it into benchmarks/README.md")


if __name__ == "__main__":
    run(main)
