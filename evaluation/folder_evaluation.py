"""Evaluates a folder of images, made by any program."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from evaluation.checkpoint_evaluation import commit, default_splits
from evaluation.image_files import RULE, Folder, read_folder, read_prompts, some
from evaluation.metrics.base import Evaluator
from evaluation.metrics.prompt_set import PromptSet, load_prompts
from evaluation.metrics.run_evaluators import Ranks, measure
from evaluation.output import Subject, EvaluatedSplit, write_result
from evaluation.processes import device_name, device_of
from evaluation.report import FinishedEvaluation
from evaluation.sample_store import SHOWN, save_shown
from files import printable
from runtime.build import DATA, instantiate_untrusted
from runtime.checkpoint import load_module
from runtime.places import trusted

SPLIT = "images"
UNKNOWN_COST = (
    "parameters", "flops_per_image", "nfe", "sec_per_image", "sec_per_image_min", "images_seen", "train_sec",
)  # fmt: skip


def evaluate_folder(
    cfg: DictConfig, overrides: Sequence[str], out: Path, evaluators: dict[str, Evaluator], ranks: Ranks
) -> FinishedEvaluation | None:
    """Measures a folder of images against real ones and writes the same as for a checkpoint.

    Raises:
        ValueError, FileNotFoundError: a folder or file that is not what it should be, in one line.
    """
    if cfg.reference is None:
        raise ValueError("images= needs reference=: a folder of real images, or a run whose data the images answer to")
    images = read_folder(cfg.images, "images", cfg.max_broken, cfg.allow_lossy, cfg.allow_outside)
    notes = notes_on_files(images, "images")
    rows, prompts, grey = (against_run if is_run(cfg.reference) else against_folder)(cfg, images, notes)
    size = (prompts.real.shape[3], prompts.real.shape[2])
    other = [i for i in rows if images.images[i].shape[1::-1] != size]
    if other:
        notes.append(f"{len(other)} of {len(rows)} images had another size than {size[0]} x {size[1]}: {RULE}")
    if len(rows) < ranks.world:
        raise ValueError(f"n={len(rows)} is fewer than the {ranks.world} processes: start fewer")
    device = device_of(cfg.device, ranks)

    def fake(indices: list[int]) -> torch.Tensor:
        return images.tensor([rows[i] for i in indices], size, grey)

    measured = measure(evaluators, prompts, fake, device=device, ranks=ranks)
    if ranks.rank != 0:
        return None
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    samples = save_shown(out / "samples", prompts.split, fake(list(range(min(SHOWN, len(rows))))))
    what = describe(cfg, overrides, images, rows, notes, device_name(device, ranks), len(other))
    return write_result(out, what, {prompts.split: EvaluatedSplit(prompts, samples, None, measured)})


def is_run(reference: str) -> bool:
    """Whether `reference` means a checkpoint, run or zoo name rather than a folder of images."""
    path = Path(reference)
    return not path.is_dir() or (path / "checkpoints").is_dir() or (path / "model.safetensors").is_file()


def against_folder(cfg: DictConfig, images: Folder, notes: list[str]) -> tuple[list[int], PromptSet, bool]:
    """The images and two disjoint sets of real ones, one to compare with and one for the floor, evenly spread over their folders."""
    reference = read_folder(cfg.reference, "reference", cfg.max_broken, allow_outside=cfg.allow_outside)
    notes += notes_on_files(reference, "reference")
    most = min(len(images), len(reference) // 2)
    n = cfg.n or most
    if n > most or n < 1:
        there = f"{len(images)} images and {len(reference)} real ones"
        raise ValueError(f"n={n} takes {n} images and {2 * n} real ones, half of them for the floor; there are {there}")
    rows = [i * len(images) // n for i in range(n)]
    if n < len(images):
        notes.append(f"{n} of {len(images)} images are used, evenly spread: {len(reference)} real ones allow {most}")
    size, grey = reference.size(), images.grey and reference.grey
    chosen = [i * len(reference) // (2 * n) for i in range(2 * n)]
    if other := sum(reference.images[i].shape[1::-1] != size for i in chosen):
        notes.append(f"{other} of {2 * n} reference images had another size than {size[0]} x {size[1]}: {RULE}")
    real = reference.tensor(chosen, size, grey)
    columns = columns_of_prompts(cfg, images, rows, notes)
    prompts = PromptSet(
        SPLIT, **columns, real=real[1::2], reference=real[0::2], reference_split=reference.path.name, paired=False
    )
    return rows, prompts, grey


def columns_of_prompts(
    cfg: DictConfig, images: Folder, rows: Sequence[int], notes: list[str]
) -> dict[str, list[Any] | None]:
    """Captions, specs and labels of the chosen images, None where the file of prompts has none at all."""
    columns: dict[str, list[Any] | None] = {"captions": None, "specs": None, "labels": None}
    if cfg.prompts is None:
        return columns
    entries = read_prompts(cfg.prompts, images.files)
    for name, key in (("captions", "caption"), ("specs", "spec"), ("labels", "label")):
        values = [entries[images.numbers[i]].get(key) for i in rows]
        have = sum(value is not None for value in values)
        if have:
            columns[name] = values
        if 0 < have < len(rows):
            notes.append(f"{have} of {len(rows)} images have a {key}: what needs one is measured on those")
    if len(entries) > len(images.files):
        notes.append(f"{cfg.prompts} has {len(entries)} lines for {len(images.files)} images: the last ones are unused")
    return columns


def against_run(cfg: DictConfig, images: Folder, notes: list[str]) -> tuple[list[int], PromptSet, bool]:
    """The images as answers to a run's data: file number i belongs to prompt i of the split."""
    if cfg.prompts is not None:
        what = f"prompts={cfg.prompts} beside reference={cfg.reference}"
        raise ValueError(f"{what}: the run's data has prompts of its own")
    try:
        _, config, _ = load_module(cfg.reference, trust=trusted(cfg.trust))
    except FileNotFoundError as error:
        text = str(error).replace("ckpt=", "reference=").replace("no such file", "no such folder")
        raise FileNotFoundError(text) from None
    data = instantiate_untrusted(config.get("data"), trust=trusted(cfg.trust), kind=DATA)
    data.setup("test")
    splits = list(cfg.splits or default_splits(data))[: None if cfg.splits else 1]
    if len(splits) > 1:
        raise ValueError(f"splits={splits}: a folder of images answers to one split, name one")
    n = cfg.n or len(images.files)
    if n > len(images.files):
        raise ValueError(f"n={n} exceeds the {len(images.files)} images of {images.path}")
    rows = [i for i, number in enumerate(images.numbers) if number < n]
    prompts = load_prompts(data, splits[0], n, ("train", "holdout"), cfg.train_images)
    return rows, prompts.select([images.numbers[i] for i in rows]), prompts.real.shape[1] == 1


def notes_on_files(folder: Folder, what: str) -> list[str]:
    """One line on the files that were left out of a folder, and one on those whose format loses detail."""
    found = []
    if folder.broken:
        found.append(f"{what}: {len(folder.broken)} of {len(folder.files)} files were left out ({some(folder.broken)})")
    if folder.lossy:
        found.append(f"{what}: {len(folder.lossy)} of {len(folder)} are compressed with losses ({some(folder.lossy)})")
    return found


def describe(
    cfg: DictConfig,
    overrides: Sequence[str],
    images: Folder,
    rows: Sequence[int],
    notes: list[str],
    place: str,
    num_resized: int,
) -> Subject:
    """Everything in metrics.json and on the cards that is not a measurement. Of a folder of images, little is known."""
    name = printable(cfg.name or images.path.resolve().name)
    return Subject(
        name=name,
        family="images",
        title=f"{name}: {len(rows)} images of a folder",
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        commit=commit(),
        facts={
            "images": printable(cfg.images),
            "reference": printable(cfg.reference),
            "prompts": printable(cfg.prompts or "none"),
            "used": f"{len(rows)} of {len(images.files)} files",
            "device": place,
        },
        data=printable(Path(cfg.reference).name),
        data_fingerprint=None,
        seeds="unknown",
        sampling={
            "resize": RULE if num_resized else "none",
            "num_resized": num_resized,
            "num_lossy": len(images.lossy),
        },
        model={},
        cost={**dict.fromkeys(UNKNOWN_COST), "device": place, "batch_size": None},
        reproduce=printable(f"python evaluate.py {' '.join(overrides)}"),
        notes=notes,
    )
