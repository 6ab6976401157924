"""Looks at the data and the model before a long run: python doctor.py model=imagen data=captions data.root=PHOTOS

The settings are those of train.py. It reads a few batches, trains on one of them again and again, and says in a line each what is well, what
is not and what to look at. No run is made; a picture of the batch is kept. Exit status 1 where a run would be for nothing.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contracts import Batch
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.build import instantiate
from runtime.config import compose
from runtime.fit import module_of, on_gpu, precision, quiet

STEPS, SHOWN, LOADED = 60, 16, 5  # of the one batch; images in the picture; batches from which the speed of loading is known
LEARNED = 0.9  # a loss below that share of the first one falls
WARM_STEPS = 10
SLACK = 0.05  # outside of -1 to 1 that is nobody's mistake
NOTHING = 1e-6  # a change of the loss by less is rounding


@dataclass(frozen=True)
class Finding:
    """One line: `verdict` is ok, warning, FAIL, look or a plain word for a fact."""

    verdict: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<9} {self.text}"


# ---- the data ----


def of_values(image: Tensor) -> Iterator[Finding]:
    """What is wrong with images (B, C, H, W) as numbers."""
    low, high, mean, std = (f(image).item() for f in (torch.min, torch.max, torch.mean, torch.std))
    text = f"values from {low:.2f} to {high:.2f}, mean {mean:.2f}, deviation {std:.2f}"
    if not torch.isfinite(image).all() or low < -1 - SLACK or high > 1 + SLACK:
        yield Finding("FAIL", f"{text}: models take images from -1 to 1")
    elif low >= 0:
        yield Finding("FAIL", f"{text}: nothing is below 0, so they seem to lie between 0 and 1; models take -1 to 1")
    elif std < 0.02:
        yield Finding("FAIL", f"{text}: there is next to nothing to see")
    else:
        yield Finding("ok", text)
    different = len({one.numpy().tobytes() for one in image})
    flat = sum(bool(one.max() == one.min()) for one in image)
    if flat:
        yield Finding("warning", f"{flat} of {len(image)} images have one value alone")
    yield Finding("ok" if 2 * different > len(image) else "warning", f"{different} of {len(image)} images of a batch differ")


def of_captions(module: Any, captions: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with the captions of a batch."""
    words, cut = sorted(len(caption.split()) for caption in captions), []
    for caption in captions:
        try:
            module.check_prompts([caption])
        except ValueError as error:
            cut.append(str(error))
    text = f"{len(set(captions))} of {len(captions)} captions differ, {words[len(words) // 2]} words in the median, {words[-1]} at most"
    yield Finding("ok" if len(set(captions)) > 1 or len(captions) == 1 else "warning", text)
    if words[0] == 0:
        yield Finding("warning", f"{words.count(0)} of {len(captions)} captions are empty")
    if cut:
        yield Finding("warning", f"{len(cut)} of {len(captions)} captions are longer than the text encoder reads: {cut[0]}")


def picture(batch: Batch, path: Path) -> Finding:
    """Writes the first images of a batch with what is said of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = batch["caption"] if "caption" in batch else [str(label) for label in batch["label"].tolist()] if "label" in batch else None
    image_u8 = ((batch["image"][:SHOWN].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    captioned_grid(image_u8, said and said[:SHOWN], columns=4).save(path)
    what = "with their captions" if "caption" in batch else "with their classes" if "label" in batch else "as the model gets them"
    return Finding("look", f"{path}: {len(image_u8)} images {what}")


# ---- the model ----


class OneBatch(Dataset):
    """A batch again and again, each time with other seeds, so that the noise is another."""

    def __init__(self, batch: Batch, steps: int) -> None:
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.batch | {"seed": self.batch["seed"] + 1_000_003 * step}


@dataclass
class Watch(pl.Callback):
    """Losses by name, seconds a step, and which trained parameters a gradient reached."""

    losses: list[dict[str, float]] = field(default_factory=list)
    step_sec: list[float] = field(default_factory=list)
    trained: dict[str, bool] = field(default_factory=dict)
    last: float = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        chosen = {id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
        self.trained = {name: False for name, p in module.named_parameters() if id(p) in chosen and p.requires_grad}
        self.last = time.perf_counter()

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        for name, p in module.named_parameters():
            if self.trained.get(name) is False and p.grad is not None and bool(p.grad.any()):
                self.trained[name] = True

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        self.losses.append({name: float(value) for name, value in module.last_losses.items()})
        now = time.perf_counter()
        self.step_sec.append(now - self.last)
        self.last = now


def warm(step: int, time_share: float) -> float:
    """The learning rate's share: full after a few steps, however long the run's own start is."""
    return min(1.0, (step + 1) / WARM_STEPS)


def learn(cfg: DictConfig, module: Any, datamodule: Any, batch: Batch, steps: int) -> Watch:
    """Trains on one batch as train.py would, at the full learning rate."""
    watch, loader = Watch(), DataLoader(OneBatch(batch, steps), batch_size=None)
    module.lr_schedule = None if module.lr_schedule is None else warm
    datamodule.train_dataloader = lambda: loader
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="gpu" if on_gpu(cfg) else "cpu" if cfg.trainer.accelerator == "auto" else cfg.trainer.accelerator, devices=1,
            precision=precision(cfg), max_epochs=1, limit_val_batches=0, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, callbacks=[watch],
        )  # fmt: skip
        trainer.fit(module, datamodule=datamodule)
    return watch


def of_learning(watch: Watch) -> Iterator[Finding]:
    """Whether the one batch was learned, and whether all that trains took part."""
    told = watch.losses[0]  # of several nets each has its own; terms of a loss may rise
    names = [name for name in told if name.startswith("loss_")] or (["loss"] if "loss" in told else [name for name in told if name.endswith("_loss")])
    for name in names:
        values = [losses[name] for losses in watch.losses if name in losses]
        if bad := [i for i, value in enumerate(values) if not torch.isfinite(torch.tensor(value))]:
            yield Finding("FAIL", f"{name} is not finite from step {bad[0] + 1} on: lower the learning rate, or train with trainer.precision=32-true")
            continue
        first, last = values[0], statistics.mean(values[-max(1, len(values) // 6) :])
        text = f"one batch again and again, {len(values)} steps: {name} {first:.4g} -> {last:.4g}"
        if "loss" not in told:
            yield Finding("loss", f"{text} (of players, whose losses say little)")
        elif last < LEARNED * first or last < first - 0.1 * abs(first):
            yield Finding("ok", text)
        else:
            yield Finding("FAIL", f"{text}: it does not learn a single batch; look at the learning rate, or give steps={4 * len(values)}")
    silent = [name for name, reached in watch.trained.items() if not reached]
    if silent:
        yield Finding("warning", f"no gradient reached {len(silent)} of {len(watch.trained)} trained parameters: {', '.join(silent[:3])}{', …' if len(silent) > 3 else ''}")
    else:
        yield Finding("ok", f"gradients reach all {len(watch.trained)} trained parameters")


@torch.no_grad()
def of_listening(module: Any, batch: Batch) -> Iterator[Finding]:
    """Whether the loss of the images changes when each gets what belongs to the next one."""
    name, kind = {"text": ("caption", "captions"), "label": ("label", "classes")}.get(module.conditioning, ("", ""))
    if name not in batch or len(set(batch[name] if name == "caption" else batch[name].tolist())) < 2:
        return
    swapped = batch[name][1:] + batch[name][:1] if name == "caption" else batch[name].roll(-1)
    module.eval()
    own, other = (float(module.losses(one)["loss"]) for one in (batch, batch | {name: swapped}))
    change = abs(other - own) / max(abs(own), 1e-12)
    text = f"{kind} of other images change the loss by {100 * change:.2g} %"
    yield Finding("ok", text) if change > NOTHING else Finding("warning", f"{text}: they do not reach the model")


def of_time(cfg: DictConfig, watch: Watch, loading: float, batch_size: int) -> Iterator[Finding]:
    """How long the run takes, and what holds it up. `loading` is in images a second."""
    sec = statistics.median(watch.step_sec[len(watch.step_sec) // 2 :])
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = f"{sec:.3g} s a batch of {batch_size}, {batch_size / sec:,.0f} images/s, {memory / 2**30:.1f} GiB"
    if cfg.trainer.max_steps:
        total = round(sec * cfg.trainer.max_steps * cfg.trainer.accumulate)
        text += f"; {cfg.trainer.max_steps:,} steps take about {timedelta(seconds=total)}, grids, checkpoints and evaluation aside"
    yield Finding("time", text)
    if loading < batch_size / sec:
        yield Finding("warning", f"loading gives {loading:,.0f} images/s: training will wait for it; data.num_workers gives it more processes")


# ---- the visit ----


def visit(cfg: DictConfig, steps: int, out: Path) -> Iterator[Finding]:
    """All findings, each as soon as it is known. Raises: ValueError and others in one line, as train.py does."""
    pl.seed_everything(cfg.seed, verbose=False)
    datamodule, module = instantiate(cfg.data), module_of(cfg, None)
    datamodule.run_seed = module.run_seed = cfg.seed
    datamodule.num_batches = LOADED + 1
    datamodule.prepare_data()
    datamodule.setup()
    held_out = datamodule.val_dataset
    yield Finding("data", f"{len(datamodule.train_dataset):,} images for training" + (f", {len(held_out):,} for validation" if held_out else ""))
    batches = iter(datamodule.train_dataloader())
    batch = module.transfer_batch_to_device(next(batches), torch.device("cpu"), 0)
    began = time.perf_counter()
    loaded = sum(len(one["image"]) for one in itertools.islice(batches, LOADED))
    loading = loaded / (time.perf_counter() - began)
    del batches
    yield from of_values(batch["image"])
    if "caption" in batch:
        yield from of_captions(module, batch["caption"])
    yield picture(batch, out / "batch.png")
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    yield Finding("model", f"{trained / 1e6:.2f} M parameters to train, {sum(p.numel() for p in module.parameters()) / 1e6:.2f} M in all")
    watch = learn(cfg, module, datamodule, batch, steps)
    yield from of_learning(watch)
    if "loss" in watch.losses[0]:
        yield from of_listening(module, batch)
    yield from of_time(cfg, watch, loading, len(batch["image"]))


def main(argv: Sequence[str]) -> int:
    """`steps=N`, `out=DIR` and the settings of train.py; 1 where something failed."""
    own = {"steps": str(STEPS), "out": "runs/doctor"} | dict(text.split("=", 1) for text in argv if text.startswith(("steps=", "out=")))
    if not own["steps"].isdecimal() or int(own["steps"]) < 2:
        raise ValueError(f"steps={own['steps']}: give a whole number of at least 2")
    settings = [text for text in argv if not text.startswith(("steps=", "out="))]
    if not settings or {"-h", "--help"} & set(settings):
        print(f"{__doc__.strip()}\n\nsteps=N ({STEPS}) on the one batch, out=DIR (runs/doctor) for the picture; every other setting is one of train.py, see python train.py --help.")
        return 0
    quiet()
    failed = False
    for finding in visit(compose("train", settings), int(own["steps"]), Path(own["out"])):
        print(finding, flush=True)
        failed |= finding.verdict == "FAIL"
    return int(failed)


if __name__ == "__main__":
    from runtime.cli import guarded

    status: list[int] = []
    sys.exit(guarded(lambda: status.append(main(sys.argv[1:]))) or status[0])
