"""Evaluates one checkpoint: draws its samples, measures them, and writes the numbers with what they rest on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from contracts import ExplainsLikelihood, HasImportanceSamples, HasPrompts, Reconstructs, has_likelihood
from evaluation.drawing import SampleDrawer, seeds
from evaluation.metrics.base import Evaluator
from evaluation.metrics.images import to_uint8
from evaluation.metrics.prompt_set import DEFAULT_N, PromptSet, load_prompts
from evaluation.metrics.run_evaluators import ALONE, Ranks, measure
from evaluation.output import Subject, EvaluatedSplit, write_result
from evaluation.processes import device_name, device_of
from evaluation.report import FinishedEvaluation
from evaluation.sample_store import sec_per_image
from evaluation.sweeps import run_sweeps
from runtime.bfloat16 import sampling_precision
from runtime.build import DATA, instantiate, instantiate_untrusted
from runtime.checkpoint import guide, load_module
from runtime.config import REPO, compose_data
from runtime.options import given_options, plain, shown_options
from runtime.places import check_folder, trusted
from runtime.settings import check_options

SCENE_SPLITS = ("iid", "combo", "word")
KEPT = ("image_size", "channels", "binarize", "root", "num_val")  # of the model's data, for data that it is compared with


def evaluate_checkpoint(
    cfg: DictConfig,
    overrides: Sequence[str],
    ckpt: str,
    name: str,
    out: Path,
    evaluators: dict[str, Evaluator],
    ranks: Ranks,
) -> FinishedEvaluation | None:
    """Samples, measures and writes one checkpoint's evaluation; its result on process 0, None on the others.

    Raises:
        ValueError, FileNotFoundError: a wrong checkpoint, split or option, in one line.
    """
    module, config, info = load_module(ckpt, ema=cfg.ema, trust=trusted(cfg.trust))
    if (refusal := module.sampling_refusal()) is not None:
        raise ValueError(f"ckpt={ckpt}: {refusal}")
    device = device_of(cfg.device, ranks)
    module = module.eval().to(device)
    guides = guide(module, cfg, trusted(cfg.trust))
    if cfg.importance_samples:
        set_importance_samples(module, cfg.importance_samples)
    asked = likelihood_options(module, cfg)
    data = instantiate_untrusted(data_node(config, cfg, ckpt), trust=trusted(cfg.trust), kind=DATA)
    data.setup("test")
    fixed = {
        "sha256": info["sha256"],
        "weights": info["weights"],
        "model": shown_options(module.sampling_settings()),
        "data": data.fingerprint(),
        "seed": cfg.seed,
        "precision": sampling_precision(str(cfg.precision), config, device),
        **{name: found["sha256"] for name, found in guides.items()},
    }
    check_folder(out, trusted(cfg.trust), itself=cfg.out is None)  # it may have come with the run
    sampler = SampleDrawer(cfg, module, fixed, out, device, ranks)
    needs = frozenset().union(*(e.needs for e in evaluators.values()))
    splits: dict[str, EvaluatedSplit] = {}
    costs, timing = [], []
    for split in cfg.splits or default_splits(data):
        prompts = prompts_of(split, data, module, cfg, needs, ranks)
        if cfg.binarize is None:
            prompts = with_model(prompts, module, needs, cfg.batch_size, device, ranks, asked)
        if cfg.other_data and prompts.likelihood is not None and ranks.rank == 0:  # only process 0 computes
            prompts = replace(prompts, other_likelihoods=likelihoods_of_other_data(cfg, module, config.data, len(prompts), device))
        store = sampler.draw(prompts)
        measured = measure(evaluators, prompts, store.read, device=device, ranks=ranks)
        splits[split] = EvaluatedSplit(prompts, store.folder, seeds(cfg.seed, split, range(len(prompts))), measured)
        if ranks.rank == 0:
            costs.append(sampler.cost(prompts, store))
            timing += store.timing()
    sweeps = run_sweeps(cfg, sampler, next(iter(splits.values())), evaluators, name)
    if ranks.rank != 0:
        return None
    median, least = sec_per_image(timing)
    cost = costs[0] | {"sec_per_image": median, "sec_per_image_min": least}
    place = device_name(device, ranks)
    what = describe(cfg, overrides, ckpt, name, module, config, info, data, place, fixed["precision"], cost, guides)
    return write_result(out, what, splits, sweeps)


GUIDED = {"weaker": "guided by", "guide_clip": "guided by the CLIP"}


def data_node(config: DictConfig, cfg: DictConfig, ckpt: str) -> DictConfig:
    """The configuration of a checkpoint's data, with binarize= in place of its own: then only its images can be measured.

    A Bernoulli decoder draws the probability of white, which under dynamic binarisation is the grey value. So a VAE of black and
    white can be measured against the greys that it was trained for, beside families that draw greys.

    Raises: ValueError where the data has no such setting, or where likelihoods are asked for as well.
    """
    node = config.get("data")
    if cfg.binarize is None:
        return node
    if "binarize" not in node:
        raise ValueError(f"binarize={cfg.binarize}: the data of {ckpt} cannot be binarised")
    if asked := next((name for name in ("other_data", "importance_samples") if cfg[name]), None):
        raise ValueError(f"{asked}= and binarize= go apart: a likelihood is one of the data that the model was trained on")
    return OmegaConf.merge(node, {"binarize": cfg.binarize})


def default_splits(data: Any) -> Sequence[str]:
    """The splits that are measured when none is named."""
    if isinstance(data, HasPrompts):
        return SCENE_SPLITS
    return ("test",) if getattr(data, "test_dataset", None) is not None else ("val",)


def prompts_of(split: str, data: Any, module: Any, cfg: DictConfig, needs: frozenset[str], ranks: Ranks) -> PromptSet:
    """What the model is asked of a split. Raises: ValueError where it has fewer images than there are processes."""
    prompts = load_prompts(data, split, cfg.n, needs, cfg.train_images).asked(module.conditioning)
    if len(prompts) < ranks.world:
        raise ValueError(f"n={len(prompts)} is fewer than the {ranks.world} processes: start fewer, or raise n")
    if cfg.n is None and ranks.rank == 0 and len(prompts) < DEFAULT_N:
        print(few(data, split, len(prompts)), flush=True)
    return prompts


def few(data: Any, split: str, n: int) -> str:
    """What is measured where a split has fewer images than are taken by default, and what gives more."""
    share = next((name for name in (f"{split}_fraction", f"num_{split}") if hasattr(data, name)), None)
    more = f": data.{share} of the training holds out more" if share else ""
    return f"split {split!r} has {n} images, and all are taken{more}"


def with_model(
    prompts: PromptSet,
    module: Any,
    needs: frozenset[str],
    batch_size: int,
    device: str,
    ranks: Ranks,
    options: dict[str, Any] | None = None,
) -> PromptSet:
    """Adds the model's reconstructions and likelihoods of the real images, where its family has them.

    The model gets the batches that it trains on. Each process fills the rows of its own images and leaves the others empty.
    `options` are those of the model's likelihood().
    """
    reconstructs = isinstance(module, Reconstructs)
    judges = has_likelihood(module) and "likelihood" in needs
    if not (reconstructs or judges):
        return prompts
    reconstruction = torch.zeros_like(prompts.real)
    columns: dict[str, torch.Tensor] = {}
    mine = ranks.share(len(prompts))
    for start in range(0, len(mine), batch_size):
        indices = mine[start : start + batch_size]
        batch = batch_of(prompts, indices, device)
        with torch.no_grad():  # not inference mode: a density may need the net's gradient
            if reconstructs:
                reconstruction[indices] = to_uint8(module.reconstruct(batch).float().cpu())
            for key, values in (module.likelihood(batch, **(options or {})) if judges else {}).items():
                empty = torch.full((len(prompts), *values.shape[1:]), torch.nan, dtype=torch.float64)
                column = columns.setdefault(key, empty)
                column[indices] = values.double().cpu()
    told = judges and isinstance(module, ExplainsLikelihood)
    return replace(
        prompts,
        reconstruction=reconstruction if reconstructs else None,
        likelihood=columns or None,
        likelihood_protocol=module.likelihood_settings(**(options or {})) if told else None,
    )


def likelihood_options(module: Any, cfg: DictConfig) -> dict[str, Any]:
    """The command's options of a model's likelihood(). Raises ValueError, in one line, for what it does not take."""
    options = {name: value for name, value in plain(cfg.likelihood_options or {}).items() if value is not None}
    if options and not has_likelihood(module):
        raise ValueError(f"likelihood_options={list(options)}: this model has no likelihood of images (that of latents is none)")
    check_options(module, options, "likelihood_options.", ("likelihood",) if options else ())
    return options


def set_importance_samples(module: Any, counts: Sequence[Any]) -> None:
    """Makes a module bound its likelihood with these numbers of importance samples. Raises ValueError if it has no such bounds."""
    if not isinstance(module, HasImportanceSamples):
        raise ValueError(f"importance_samples={list(counts)}: {type(module).__name__} has no such bounds")
    if not all(isinstance(k, int) and k > 0 for k in counts):
        raise ValueError(f"importance_samples={list(counts)}: whole numbers of at least 1, for instance [50,500]")
    module.eval_importance_samples = tuple(sorted(counts))


def likelihoods_of_other_data(
    cfg: DictConfig, module: Any, own: DictConfig, n: int, device: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Likelihoods of n test images of every `other_data`, in the size and channels of the model's own data.

    Raises: ValueError for data that cannot be had in the model's size and channels.
    """
    found = {}
    for name in cfg.other_data:
        node = compose_data(name)
        node.update({key: own[key] for key in KEPT if key in own and key in node})
        data = instantiate(node)
        data.setup("test")
        prompts = load_prompts(data, default_splits(data)[0], n)
        judged = with_model(prompts, module, frozenset({"likelihood"}), cfg.batch_size, device, ALONE, likelihood_options(module, cfg))
        found[str(name)] = judged.likelihood
    return found


def batch_of(prompts: PromptSet, indices: Sequence[int], device: str) -> dict[str, Any]:
    """Real images of a prompt set as the batch that losses() would get, with a seed for each image."""
    batch: dict[str, Any] = {"image": prompts.real[list(indices)].to(device).float() / 127.5 - 1}
    batch["seed"] = torch.tensor(seeds(0, f"{prompts.split} likelihood", indices), device=device)
    if prompts.labels is not None:
        batch["label"] = torch.tensor([prompts.labels[i] for i in indices], device=device)
    if prompts.captions is not None:
        batch["caption"] = [prompts.captions[i] for i in indices]
    return batch


def describe(
    cfg: DictConfig,
    overrides: Sequence[str],
    ckpt: str,
    name: str,
    module: Any,
    config: DictConfig,
    info: dict[str, Any],
    data: Any,
    place: str,
    computed_in: str,
    cost: dict[str, Any],
    guides: dict[str, dict[str, Any]],
) -> Subject:
    """Everything in metrics.json and on the cards that is not a measurement."""
    choices = config.get("choices") or {}
    family, source = choices.get("model") or type(module).__name__, choices.get("data") or type(data).__name__
    given = shown_options(given_options(cfg))
    settings = shown_options(module.sampling_settings()) | given
    settings |= {name: found["sha256"] for name, found in guides.items()}
    guided = {GUIDED[name]: f"{cfg[name]} (sha256 {found['sha256'][:12]}), {found['weights']} after {found['step']:,} steps"
             for name, found in guides.items()}  # fmt: skip
    parameters = sum(p.numel() for p in module.parameters())
    info = info | {"path": shortest(Path(info["path"]))}
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Subject(
        name=name,
        family=family,
        title=f"{family} on {source}, {data.image_size} pixels",
        date=date,
        commit=commit(),
        facts={
            "checkpoint": f"{info['path']} (sha256 {info['sha256'][:12]})",
            "weights": f"{info['weights']} after {info['step']:,} steps, {info['images_seen']:,} images",
            "seeds": f"one per image, from seed={cfg.seed}",
            "sampling": ", ".join(f"{k} {v}" for k, v in given.items()) or "as the checkpoint has it",
            **guided,
            "precision": computed_in,
            "device": place,
        },
        data=source,
        data_fingerprint=data.fingerprint(),
        seeds=f"blake2b(seed={cfg.seed}, split, index)",
        sampling={"weights": info["weights"], "precision": computed_in, **settings},
        model={"parameters": parameters, **info},
        cost={
            "parameters": parameters,
            **cost,
            "images_seen": info["images_seen"],
            "train_sec": info.get("train_sec"),
            "device": place,
            "batch_size": cfg.batch_size,
        },
        reproduce=f"python evaluate.py {' '.join(overrides)}",
    )


def shortest(path: Path) -> str:
    """A path relative to the checkout where it lies in it, because results are read on other machines."""
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else str(path)


def commit() -> str:
    """Short hash of the checkout, with + when files were changed; `unknown` outside a checkout."""
    run = {"cwd": REPO, "capture_output": True, "text": True}
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **run)
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "") if found.returncode == 0 else "unknown"
