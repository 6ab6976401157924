"""A training run, from configuration to metrics."""

from __future__ import annotations

import logging
import platform
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from runtime import run_dir
from runtime.budget import budget_of
from runtime.build import instantiate
from runtime.checkpoint import start_from
from runtime.checkpoint_io import AtomicCheckpointIO
from runtime.jsonl import JsonlLogger, last_values
from runtime.places import trusted
from runtime.resume import is_process_zero

UNLIMITED_STEPS = 10**9


class RunState(pl.Callback):
    """Puts what makes a checkpoint sufficient by itself into it, and refuses to go on with other data."""

    def __init__(self, cfg: DictConfig, checkpoint: dict[str, Any] | None) -> None:
        self.cfg, self.checkpoint = cfg, checkpoint

    def data(self, trainer: pl.Trainer) -> dict[str, Any]:
        datamodule = trainer.datamodule
        images = datamodule.batch_size * trainer.accumulate_grad_batches
        return {"fingerprint": datamodule.fingerprint(), "images_per_step": images, "seed": self.cfg.seed}

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        trainer.accumulate_grad_batches = self.cfg.trainer.accumulate  # allow_several_optimizers took it away
        for name, then in (self.checkpoint or {}).get("data", {}).items():
            now = self.data(trainer)[name]
            if now != then and not self.cfg.resume_force:
                what = f"the run was trained with {name} {then}, and now it is {now}"
                raise ValueError(f"{what}: restore the data, or add resume_force=true")

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
        checkpoint |= {
            "config": OmegaConf.to_container(self.cfg, resolve=True),
            "config_source": OmegaConf.to_container(self.cfg, resolve=False),
            "data": self.data(trainer),
            "train_sec": stop.train_sec,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    ours = {"torch": torch.__version__.split("+")[0], "pytorch_lightning": pl.__version__}
    return {"python": platform.python_version(), **ours}


def fit(cfg: DictConfig, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """Trains until the steps or the time are used up and returns the newest value of every metric.

    Raises: SystemExit 143 or 130 after a SIGTERM or Ctrl-C, with a checkpoint saved; ValueError for wrong settings.
    """
    quiet()
    path = Path(cfg.run_dir)
    total = total_steps(cfg)
    done = checkpoint["counters"] if checkpoint else {"batches_seen": 0, "optimizer_steps": 0}
    if done["optimizer_steps"] >= total:
        say(f"the run is finished at step {done['optimizer_steps']}: give a larger trainer.max_steps to go on")
        return last_values(path)
    pl.seed_everything(cfg.seed, verbose=False)  # initial weights
    datamodule = instantiate(cfg.data)
    with budget_of(checkpoint["state_dict"]) if checkpoint else nullcontext():
        module = instantiate(cfg.model)
    if cfg.get("init") and not checkpoint:
        start_from(module, cfg.init, trusted(cfg.get("trust")))
    datamodule.num_batches = total * cfg.trainer.accumulate
    datamodule.run_seed = module.run_seed = cfg.seed
    datamodule.start_batch = done["batches_seen"]
    record = JsonlLogger(path)
    trainer = build_trainer(cfg, checkpoint, record)
    if not module.automatic_optimization:
        allow_several_optimizers(trainer)
    check_batch_size(trainer, datamodule)
    if is_process_zero():  # not before everything could be built, so that a mistake leaves nothing behind
        run_dir.create(path, cfg)
        record.rewind(done["optimizer_steps"])
    say(f"run: {shown(path)}" + (f", going on at step {done['optimizer_steps']}" if checkpoint else ""))
    stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint and checkpoint["path"], weights_only=True)
    except SystemExit:  # Lightning's own answer to signals, for instance to a second Ctrl-C
        raise SystemExit(128 + stop.signum if stop.signum else 143 if trainer.received_sigterm else 1) from None
    record.close()
    if stop.signum:
        name = signal.Signals(stop.signum).name
        where = f"stopped by {name} at step {module.optimizer_steps}, saved"
        say(f"{where}; go on with: python train.py resume={shown(path)}")
        raise SystemExit(128 + stop.signum)
    return last_values(path) | {"step": module.optimizer_steps, "images": module.images_seen}


def total_steps(cfg: DictConfig) -> int:
    """Optimiser steps of the run. Raises ValueError if neither steps nor time are limited."""
    trainer = cfg.trainer
    for name in ("max_steps", "accumulate"):
        value = trainer[name]
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"trainer.{name}={value!r}: a whole number of at least 1")
    if trainer.max_steps is None and trainer.max_time is None:
        raise ValueError("trainer.max_steps and trainer.max_time are both null: the run would never end, give one")
    return trainer.max_steps or UNLIMITED_STEPS


def build_trainer(cfg: DictConfig, checkpoint: dict[str, Any] | None, record: JsonlLogger) -> pl.Trainer:
    """Lightning's trainer with one epoch for the whole run and our callbacks, loggers and checkpoint writer."""
    settings = cfg.trainer
    on_gpu = settings.accelerator in ("gpu", "cuda") or settings.accelerator == "auto" and torch.cuda.is_available()
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    loggers = [instantiate(node) for node in (cfg.logger or {}).values() if node is not None]
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(
            accelerator="gpu" if on_gpu else "cpu" if settings.accelerator == "auto" else settings.accelerator,
            devices=settings.devices,
            strategy=settings.strategy,
            precision=settings.precision or ("bf16-mixed" if on_gpu or cpu_has_bf16() else "32-true"),
            deterministic=settings.deterministic,
            accumulate_grad_batches=settings.accumulate,
            max_epochs=1,
            min_epochs=0,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=[record, *loggers],
            callbacks=[instantiate(settings.stop), *callbacks, RunState(cfg, checkpoint)],
            plugins=[AtomicCheckpointIO()],
            default_root_dir=cfg.run_dir,
        )


def allow_several_optimizers(trainer: pl.Trainer) -> None:
    """Prepares for a module that steps its optimisers itself. It also accumulates batches itself, which Lightning's
    check of its settings refuses, and each backward pass leaves the weights of the others without gradient."""
    trainer.accumulate_grad_batches = 1
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = True


def check_batch_size(trainer: pl.Trainer, datamodule: Any) -> None:
    """Raises ValueError unless the processes share a batch equally."""
    if datamodule.batch_size % trainer.world_size:
        what = f"data.batch_size={datamodule.batch_size} is the batch over all processes"
        raise ValueError(f"{what}: it must be a multiple of the {trainer.world_size} devices")


def quiet() -> None:
    """Silences what Lightning tells everybody; our own lines say what matters."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric", "lightning_utilities"):
        warnings.filterwarnings("ignore", module=f"{module}.*")
    warnings.filterwarnings("ignore", message=".*(does not have many workers|litlogger|isinstance.treespec).*")


def say(text: str) -> None:
    """Prints from process 0 at once."""
    if is_process_zero():
        print(text, flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, about twice as fast as float32."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
