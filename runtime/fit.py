"""A training run, from configuration to metrics."""

from __future__ import annotations

import functools
import logging
import platform
import signal
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from files import why_not_written
from runtime import run_dir
from runtime.accidents import answer, last_good, stopping_together, way_on
from runtime.bfloat16 import cpu_prefers_bf16
from runtime.budget import budget_of
from runtime.build import instantiate
from runtime.checkpoint import start_from
from runtime.checkpoint_io import AtomicCheckpointIO
from runtime.console import be_patient, set_ctrl_c
from runtime.jsonl import JsonlLogger, last_values
from runtime.options import check_callbacks
from runtime.places import trusted
from runtime.resume import is_process_zero
from runtime.run_dir import shown
from runtime.sharding import check_sharding
from runtime.summary import summary

UNLIMITED_STEPS = 10**9
OF_PROCESS_ZERO = "signal, optimizer_steps, images_seen"  # where the first process of strategy=ddp_fork leaves them


class RunState(pl.Callback):
    """Adds to each checkpoint all that is needed to rebuild the run, and refuses to resume with other data."""

    def __init__(self, cfg: DictConfig, checkpoint: dict[str, Any] | None, record: JsonlLogger) -> None:
        self.cfg, self.checkpoint, self.record = cfg, checkpoint, record

    def data(self, trainer: pl.Trainer) -> dict[str, Any]:
        datamodule = trainer.datamodule
        images = datamodule.batch_size * trainer.accumulate_grad_batches
        return {"fingerprint": datamodule.fingerprint(), "images_per_step": images, "seed": self.cfg.seed}

    def in_force(self, trainer: pl.Trainer) -> dict[str, Any]:
        """What the settings came to on this machine, where they leave it open."""
        decay = next((c.decay for c in trainer.callbacks if hasattr(c, "half_life_images")), None)
        machine = {"accelerator": trainer.strategy.root_device.type, "processes": trainer.world_size}
        return {"precision": self.cfg.trainer.precision, "ema_decay": decay, **machine}

    def setup(self, trainer: pl.Trainer, module: Any, stage: str) -> None:
        trainer.accumulate_grad_batches = self.cfg.trainer.accumulate  # allow_several_optimizers took it away
        run_dir.children_keep_locks(False)
        if not trainer.is_global_zero:  # of strategy=ddp_fork, whose processes have inherited the lock
            run_dir.unlock_all()
        for name, then in (self.checkpoint or {}).get("data", {}).items():
            now = self.data(trainer)[name]
            if now != then and not self.cfg.resume_force:
                what = f"the run was trained with {name} {then}, and now it is {now}"
                raise ValueError(f"{what}: restore the data, or add resume_force=true")
            if now != then:
                say(f"changed: {name} {then} -> {now} (another run from here on)")

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        before, now = (self.checkpoint or {}).get("in_force", {}), self.in_force(trainer)
        for name in ("accelerator", "processes"):
            if before and before[name] != now[name]:
                say(f"changed: {name} {before[name]} -> {now[name]} (the same to rounding)")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if module.optimizer_steps and trainer.is_global_zero:
            run_dir.keep(Path(self.cfg.run_dir))

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
        checkpoint |= {
            "config": OmegaConf.to_container(self.cfg, resolve=True),
            "config_source": OmegaConf.to_container(self.cfg, resolve=False),
            "data": self.data(trainer),
            "in_force": self.in_force(trainer),
            "train_sec": stop.train_sec,
            "versions": versions(),
        }
        if unwritten := self.record.unwritten():  # the disk is full: what the checkpoint counts on is in itself
            checkpoint["unwritten"] = unwritten

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
        facts = {"parameters": sum(p.numel() for p in module.parameters()), "images": module.images_seen, "train_sec": stop.train_sec}
        for logger in trainer.loggers:
            if hasattr(logger, "log_summary"):
                logger.log_summary(facts)

    def on_fit_end(self, trainer: pl.Trainer, module: Any) -> None:
        if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher) and trainer.is_global_zero:
            check_end(trainer, self.record, Path(self.cfg.run_dir))
            # The parent process learns of errors and of these values alone.
            stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
            values = torch.tensor([stop.signum, module.optimizer_steps, module.images_seen])
            trainer.callback_metrics[OF_PROCESS_ZERO] = values


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    libraries = {"torch": torch.__version__.split("+")[0], "pytorch_lightning": pl.__version__}
    return {"python": platform.python_version(), **libraries}


def fit(cfg: DictConfig, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """Trains until the steps or the time are used up and returns the newest value of every metric.

    Raises: SystemExit 143 or 130 after a SIGTERM or Ctrl-C, with a checkpoint saved; ValueError for wrong settings, a
    directory in use, a last checkpoint or metrics that could not be written. A run that took no step leaves nothing.
    """
    quiet()
    path = Path(cfg.run_dir)
    ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        return train(cfg, checkpoint, path)
    except BaseException:
        run_dir.discard(path)
        raise
    finally:
        run_dir.unlock(path)
        set_ctrl_c(ctrl_c)  # Lightning takes the handler of callbacks.stop for one that it has to put back


def train(cfg: DictConfig, checkpoint: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    """What `fit` does, under the lock of the run directory."""
    total, record = total_steps(cfg), JsonlLogger(path)
    done = checkpoint["counters"] if checkpoint else {"batches_seen": 0, "optimizer_steps": 0}
    unwritten = (checkpoint or {}).get("unwritten")
    if done["optimizer_steps"] >= total:
        if is_process_zero():  # also where all is written: a power cut may have torn what followed
            rewind(record, done["optimizer_steps"], unwritten)
            check_record(record.close(), path, "its checkpoint has them")
        say(f"the run is finished at step {done['optimizer_steps']}: give a larger trainer.max_steps to go on")
        return last_values(path)
    pl.seed_everything(cfg.seed, verbose=False)  # initial weights
    cfg.trainer.precision = precision(cfg)  # recorded: another machine would choose another
    datamodule = instantiate(cfg.data)
    module = module_of(cfg, checkpoint)
    check_callbacks(cfg, module)
    check_sharding(cfg, module)
    datamodule.num_batches = total * cfg.trainer.accumulate
    datamodule.run_seed = module.run_seed = cfg.seed
    datamodule.start_batch = done["batches_seen"]
    trainer = build_trainer(cfg, checkpoint, record)
    if not module.automatic_optimization:
        allow_several_optimizers(trainer)
    check_batch_size(trainer, datamodule)
    if is_process_zero():  # not before everything could be built, so that a mistake leaves nothing behind
        run_dir.create(path, cfg)
        rewind(record, done["optimizer_steps"], unwritten)
    say(f"run: {shown(path)}" + (f", going on at step {done['optimizer_steps']}" if checkpoint else ""))
    stop = next(c for c in trainer.callbacks if hasattr(c, "train_sec"))
    launcher = trainer.strategy.launcher
    several = isinstance(launcher, _MultiProcessingLauncher)
    run_dir.children_keep_locks(several)
    try:
        with stopping_together(launcher) if several else nullcontext():
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint and checkpoint["path"], weights_only=True)
    except BaseException as error:
        trainer.strategy.checkpoint_io.finish()  # of what is written in the background, before anybody else may go on with the run
        if isinstance(error, FloatingPointError) and not is_process_zero():
            return {}  # all processes gave up, one says so
        to_raise = answer(error, stop.signum or (signal.SIGTERM if trainer.received_sigterm else 0), path)
        if several and isinstance(to_raise, SystemExit):
            say(f"stopped: {way_on(path)}")
        if to_raise is error:
            raise
        raise to_raise from None
    if not is_process_zero():
        return {}
    if stop.signum:
        set_ctrl_c(signal.SIG_IGN)  # all is saved: what is left is to say so
    if several:
        stop.signum, module.optimizer_steps, module.images_seen = map(int, trainer.callback_metrics[OF_PROCESS_ZERO])
    check_end(trainer, record, path)
    if stop.signum:
        where = f"stopped by {signal.Signals(stop.signum).name} at step {module.optimizer_steps}, saved"
        say(f"{where}; go on with: python train.py resume={shown(path)}")
        raise SystemExit(128 + stop.signum)
    if not trainer.strategy.checkpoint_io.saved:
        first_saved(cfg)()
    return ended(path, module, datamodule, stop.train_sec)


def module_of(cfg: DictConfig, checkpoint: dict[str, Any] | None) -> Any:
    """The module to train; Lightning gives it a checkpoint's weights later."""
    with budget_of(checkpoint["state_dict"]) if checkpoint else nullcontext():
        module = instantiate(cfg.model)
    if cfg.get("init") and not checkpoint:
        start_from(module, cfg.init, trusted(cfg.get("trust")))
    if cfg.trainer.get("checkpoint_activations"):
        module.checkpoint_activations()
    if cfg.trainer.get("compile"):
        module.compile_nets()
    return module


def ended(path: Path, module: Any, datamodule: Any, train_sec: float) -> dict[str, Any]:
    """Says how a run ended and returns the newest value of every metric."""
    metrics = last_values(path) | {"step": module.optimizer_steps, "images": module.images_seen}
    prompts = datamodule.example_prompts(1) if hasattr(datamodule, "example_prompts") else []
    say(summary(path, module, metrics, train_sec, prompts))
    return metrics


def check_end(trainer: pl.Trainer, record: JsonlLogger, path: Path) -> None:
    """Brings the record to the disk. Raises ValueError, with what to do, if it or the last checkpoint is not there."""
    for callback in trainer.callbacks:
        if getattr(callback, "failure", None):
            way = last_good(path) if callback.diverged else f"python train.py resume={shown(path)}"
            raise ValueError(f"{callback.failure}: {way}")
    error, saved = record.close(), trainer.strategy.checkpoint_io.saved
    if not (saved and any(getattr(c, "signum", 0) for c in trainer.callbacks)):  # a stopped run writes them later
        check_record(error, path, "the last checkpoint has them" if saved else "there is no checkpoint that has them")


def check_record(error: OSError | None, path: Path, where: str) -> None:
    """Raises ValueError, naming the error and `where` the lines are, if lines of the record are not on the disk."""
    if error:
        why = f"not all metrics of this run could be written: {why_not_written(error, path)}"
        raise ValueError(f"{why}; {where}: make room, then go on with: python train.py resume={shown(path)}")


def rewind(record: JsonlLogger, step: int, unwritten: dict[str, Any] | None) -> None:
    """`record.rewind`, with a disk that does not take it answered in one line."""
    try:
        record.rewind(step, unwritten)
    except OSError as error:
        raise ValueError(f"the run cannot go on: {why_not_written(error, record.dir)}") from None


def first_saved(cfg: DictConfig) -> Callable[[], None]:
    """What the first checkpoint of a session does: it makes the run the `latest`, if it lies below runs/."""
    path, runs = Path(cfg.run_dir), Path(cfg.paths.runs).resolve()
    return functools.partial(run_dir.point_latest, runs, path) if path.is_relative_to(runs) else bool


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


def precision(cfg: DictConfig) -> str:
    """The precision in force: the setting, or what suits the machine. Raises ValueError where the machine lacks it."""
    wanted, gpu = cfg.trainer.precision, on_gpu(cfg)
    if wanted is None:
        return "bf16-mixed" if gpu or cpu_prefers_bf16() else "32-true"
    lacks_half = not gpu and cfg.trainer.accelerator in ("auto", "cpu") and str(wanted).startswith("16")
    if lacks_half or gpu and str(wanted).startswith("bf16") and not torch.cuda.is_bf16_supported():
        change = "choose another one, such as 32-true (a run that goes on needs resume_force=true for that)"
        raise ValueError(f"trainer.precision={wanted}: {'this GPU' if gpu else 'a CPU'} does not compute in it; {change}")
    return wanted


def on_gpu(cfg: DictConfig) -> bool:
    """Whether the run trains on a GPU."""
    wanted = cfg.trainer.accelerator
    return wanted in ("gpu", "cuda") or wanted == "auto" and torch.cuda.is_available()


def build_trainer(cfg: DictConfig, checkpoint: dict[str, Any] | None, record: JsonlLogger) -> pl.Trainer:
    """Lightning's trainer, with one epoch for the whole run and this repository's callbacks, loggers and checkpoints."""
    settings = cfg.trainer
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    loggers = [instantiate(node) for node in (cfg.logger or {}).values() if node is not None]
    for logger in loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(
            accelerator="gpu" if on_gpu(cfg) else "cpu" if settings.accelerator == "auto" else settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=settings.precision,
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
            profiler=instantiate({"_target_": "callbacks.data_wait.DataWait"}),
            callbacks=[instantiate(settings.stop), *callbacks, RunState(cfg, checkpoint, record)],
            plugins=[AtomicCheckpointIO(first_saved(cfg))],
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
    """Silences what Lightning tells everybody; our own lines say what matters, and end nothing."""
    be_patient()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric", "lightning_utilities"):
        warnings.filterwarnings("ignore", module=f"{module}.*")
    warnings.filterwarnings("ignore", message=".*(does not have many workers|litlogger|isinstance.treespec).*")
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nothing here changes what a net returned in place


def say(text: str) -> None:
    """Prints from process 0 at once."""
    if is_process_zero():
        print(text, flush=True)
