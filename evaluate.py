"""Samples from a checkpoint, measures the samples, and writes cards, metrics.json and report.html.

python evaluate.py ckpt=RUN n=512 out=DIR
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.grid import captioned_grid
from evaluators.base import Evaluator
from evaluators.images import to_uint8
from evaluators.measure import Measured, measure
from evaluators.prompts import PromptSet, load_prompts, sample_seed
from evaluators.results import Evaluated, SplitResult, Sweep, scalars, table, write_results
from evaluators.samples import SampleStore, digest
from runtime.build import instantiate, instantiate_untrusted
from runtime.checkpoint import load_module
from runtime.cli import EXAMPLES, GROUPS, SETTINGS, launch
from runtime.config import compose
from runtime.wandb import WandbLogger

SCENE_SPLITS = ("iid", "combo", "word")
OPTIONS = ("guidance_scale", "num_steps", "sampler")

EXAMPLES["evaluate"] = """
Measure a checkpoint: a file, a run directory, or a name in zoo/.

  python evaluate.py ckpt=runs/latest n=512 out=evaluation
  python evaluate.py ckpt=runs/latest splits=[iid,combo,word] sweep.guidance_scale=[1,2,4]

Writes report.html, metrics.json, one card per number, and the samples, which are not drawn again when they are there.
docs/evaluation.md says what each number means.
"""
GROUPS["evaluate"] = {"evaluator": "what to measure", "sampler": "how to draw"}
SETTINGS["evaluate"] = "batch_size=16, ema=false, device=cpu, evaluator.fd=null, wandb=true"


def main(overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluates as the overrides say and returns what metrics.json holds.

    Raises:
        ValueError, FileNotFoundError: a wrong option, checkpoint or split, in one line.
    """
    cfg = compose("evaluate", overrides)
    check(cfg)
    module, config, info = load_module(cfg.ckpt, ema=cfg.ema)
    if (refusal := module.sampling_refusal()) is not None:
        raise ValueError(f"ckpt={cfg.ckpt}: {refusal}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    data = instantiate_untrusted(config.data)
    data.setup("test")
    out = Path(cfg.out) if cfg.out else default_out(cfg.ckpt)
    evaluators = {name: instantiate(node) for name, node in cfg.evaluator.items() if node is not None}
    sampler = Sampler(cfg, module.eval().to(device), info, data.fingerprint(), out)
    names = cfg.splits or (SCENE_SPLITS if hasattr(data, "prompts") else ("test",))
    splits: dict[str, SplitResult] = {}
    for name in names:
        prompts = asked(load_prompts(data, name, cfg.n), module.conditioning)
        store, measured = sampler.measure(prompts, evaluators, device)
        splits[name] = SplitResult(prompts, store, seeds(cfg.seed, prompts, range(len(prompts))), measured)
    sweep = run_sweep(cfg, sampler, splits[names[0]], evaluators, device)
    what = describe(cfg, overrides, module, config, info, data, device, splits)
    result = write_results(out, what, splits, sweep, cfg.examples)
    if cfg.wandb:
        mirror(out, what, info, result, splits)
    print(f"\n{table(result)}\n\n{out / 'report.html'}")
    return result


def check(cfg: DictConfig) -> None:
    """Refuses options out of range before anything is loaded."""
    if not cfg.ckpt:
        raise ValueError("which checkpoint? Pass ckpt=a run directory, a checkpoint file or a name in zoo/")
    for name, least in (("n", 1), ("batch_size", 1), ("examples", 0)):
        if not isinstance(cfg[name], int) or cfg[name] < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {cfg[name]!r}")
    for name, values in (("splits", cfg.splits), ("sweep.guidance_scale", cfg.sweep.guidance_scale)):
        if values is not None and not (OmegaConf.is_list(values) and len(values)):
            raise ValueError(
                f"{name} must be a list, for instance {name}=[{'1,2,4' if '.' in name else 'iid,word'}], got {values!r}"
            )


def default_out(ckpt: str) -> Path:
    """`evaluation/` inside a run directory, `evaluation/<name>` here for anything else."""
    return Path(ckpt) / "evaluation" if Path(ckpt).is_dir() else Path("evaluation") / Path(ckpt).stem


def asked(prompts: PromptSet, conditioning: str) -> PromptSet:
    """The prompts as far as the family can be asked: without text, nothing can be judged against a caption.

    Raises:
        ValueError: the family needs captions or labels that the data does not have.
    """
    if conditioning == "text":
        if prompts.captions is None:
            raise ValueError(f"the model draws from captions, and split {prompts.split} of its data has none")
        return prompts
    if conditioning == "label" and prompts.labels is None:
        raise ValueError(f"the model draws from labels, and split {prompts.split} of its data has none")
    return replace(prompts, captions=None, specs=None, labels=prompts.labels if conditioning == "label" else None)


class Sampler:
    """Makes sure that the samples of a split lie on disk, and measures them."""

    def __init__(self, cfg: DictConfig, module: Any, info: dict[str, Any], data_fingerprint: str, out: Path) -> None:
        self.cfg, self.module, self.out = cfg, module, out
        self.fixed = {"sha256": info["sha256"], "weights": info["weights"], "data": data_fingerprint, "seed": cfg.seed}

    def measure(
        self, prompts: PromptSet, evaluators: dict[str, Evaluator], device: str, **overrides: Any
    ) -> tuple[SampleStore, Measured]:
        """Samples what is missing with the configured options and `overrides`, then runs the evaluators."""
        plain = sampling_options(self.cfg) | overrides
        store = SampleStore(
            self.out / "samples", prompts.split, self.fixed | {"split": prompts.split, "options": plain}
        )
        options = plain | ({"sampler": instantiate(self.cfg.sampler)} if "sampler" in plain else {})
        missing = store.missing(len(prompts))
        label = " ".join([prompts.split, *(f"{key}={value}" for key, value in overrides.items())])
        progress = Progress(f"sampling {label}", len(prompts), len(missing))
        for start in range(0, len(missing), self.cfg.batch_size):
            indices, began = missing[start : start + self.cfg.batch_size], time.perf_counter()
            with torch.inference_mode():
                image = self.module.sample(
                    conditions(prompts, indices), seeds=seeds(self.cfg.seed, prompts, indices), **options
                )
            store.write(indices, to_uint8(image), time.perf_counter() - began)
            progress.add(len(indices))
        return store, measure(evaluators, prompts, store.read, device=device)


def sampling_options(cfg: DictConfig) -> dict[str, Any]:
    """The options that were given, as plain values; what is absent stays as the checkpoint has it."""
    given = {name: cfg[name] for name in OPTIONS if cfg[name] is not None}
    return {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for name, value in given.items()
    }


def configured(node: Any, place: str = "") -> dict[str, Any]:
    """The sampling settings inside a model's configuration, by their place: {"stages.base.num_steps": 32}."""
    found: dict[str, Any] = {}
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "sampler" and isinstance(value, dict):
            found[f"{place}{key}"] = str(value.get("_target_", "")).rpartition(".")[2]
        elif key in (*OPTIONS, "threshold", "guidance_rescale", "aug_level"):
            found[f"{place}{key}"] = value
        else:
            found |= configured(value, f"{place}{key}.")
    return found


def conditions(prompts: PromptSet, indices: Sequence[int]) -> Any:
    """Captions, else labels, else a number of images."""
    if prompts.captions is not None:
        return [prompts.captions[i] for i in indices]
    return [prompts.labels[i] for i in indices] if prompts.labels is not None else len(indices)


def seeds(seed: int, prompts: PromptSet, indices: Sequence[int]) -> list[int]:
    """One seed per image, independent of batch size, count and options."""
    return [sample_seed(seed, prompts.split, i) for i in indices]


def run_sweep(
    cfg: DictConfig, sampler: Sampler, split: SplitResult, evaluators: dict[str, Evaluator], device: str
) -> Sweep | None:
    """The first split measured again at every guidance scale."""
    if cfg.sweep.guidance_scale is None:
        return None
    sweep = Sweep("guidance_scale", split.prompts.split, len(split.prompts))
    for value in cfg.sweep.guidance_scale:
        scale = float(value) if cfg.sweep.stage is None else {cfg.sweep.stage: float(value)}
        sweep.add(value, sampler.measure(split.prompts, evaluators, device, guidance_scale=scale)[1])
    return sweep


class Progress:
    """One line on stderr: images done, seconds per image, time left."""

    def __init__(self, label: str, total: int, missing: int) -> None:
        self.label, self.total, self.missing, self.done, self.began = label, total, missing, 0, time.perf_counter()
        if missing < total:
            print(f"{label}: {total - missing} of {total} images are on disk already", file=sys.stderr)

    def add(self, count: int) -> None:
        self.done += count
        each = (time.perf_counter() - self.began) / self.done
        left = each * (self.missing - self.done)
        end = "\n" if self.done == self.missing or not sys.stderr.isatty() else "\r"
        text = f"{self.label}: {self.done}/{self.missing} images, {each:.2f} s/image, {left / 60:.1f} min left"
        print(text.ljust(90), end=end, file=sys.stderr, flush=True)


def describe(
    cfg: DictConfig,
    overrides: Sequence[str],
    module: Any,
    config: DictConfig,
    info: dict[str, Any],
    data: Any,
    device: str,
    splits: dict[str, SplitResult],
) -> Evaluated:
    """Everything on the page and the cards that is not a measurement."""
    choices = config.get("choices") or {}
    family, source = choices.get("model") or type(module).__name__, choices.get("data") or type(data).__name__
    parameters = sum(p.numel() for p in module.parameters())
    each = [sec for split in splits.values() if (sec := split.store.sec_per_image()) is not None]
    settings = configured(OmegaConf.to_container(config.model, resolve=True)) | sampling_options(cfg)
    place = f"{device_name(device)}, batch {cfg.batch_size}"
    return Evaluated(
        title=f"{family} on {source}, {data.image_size} pixels",
        facts={
            "checkpoint": f"{cfg.ckpt} (sha256 {info['sha256'][:12]})",
            "weights": f"{info['weights']} after {info['step']:,} steps, {info['images_seen']:,} images",
            "images per split": str(cfg.n),
            "seeds": f"one per image, from seed={cfg.seed}",
            "sampling": ", ".join(f"{k} {v}" for k, v in sampling_options(cfg).items()) or "as the checkpoint has it",
            "code": commit(),
            "device": device_name(device),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        },
        data=source,
        data_fingerprint=data.fingerprint(),
        seeds=f"blake2b(seed={cfg.seed}, split, index)",
        sampling={"weights": info["weights"], **settings},
        model={
            "family": family,
            "parameters": parameters,
            **info,
            "sec_per_image": sum(each) / len(each) if each else None,
        },
        cost={
            "parameters": f"{parameters:,}",
            "sampling": f"{sum(each) / len(each):.3g} s per image ({place})" if each else "unknown",
            "training": f"{info['train_sec'] / 3600:.2f} hours" if info.get("train_sec") else "unknown",
        },
        reproduce=f"python evaluate.py {' '.join(overrides)}",
    )


def commit() -> str:
    """Short hash of the checkout, with + when files were changed; `unknown` outside a checkout."""
    run = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **run)
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if found.returncode == 0 else "unknown"


def device_name(device: str) -> str:
    return (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    )


def mirror(
    out: Path, what: Evaluated, info: dict[str, Any], result: dict[str, Any], splits: dict[str, SplitResult]
) -> None:
    """Sends numbers and sample grids to W&B (offline without a key), on the axis of the training's steps."""
    identity = digest([info["sha256"], what.sampling])
    config = {"checkpoint": info["path"], "data": what.data, **what.sampling}
    logger = WandbLogger(
        project=what.model["family"], dir=str(out), id=identity, name=f"evaluate {what.title}", config=config
    )
    logger.log_metrics(scalars(result), step=info["step"])
    for name, split in splits.items():
        shown = list(range(min(16, len(split.prompts))))
        captions = [split.prompts.captions[i] for i in shown] if split.prompts.captions else None
        logger.log_picture(f"eval/{name}/samples", captioned_grid(split.store.read(shown), captions), step=info["step"])
    logger.finalize("success")


if __name__ == "__main__":
    launch(main, "evaluate")
