"""Which configuration a command means: a new run's, or that of a run to continue."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from runtime import run_dir
from runtime.build import DATA, MODULE, check_targets, plain
from runtime.checkpoint import check_contents
from runtime.checkpoint_io import newest_good, read
from runtime.config import compose, has_key, parse, unknown_setting
from runtime.foreign import read_foreign_config, settle
from runtime.places import check_folder, check_places, remember, trusted

# What may change between two sessions of a run without changing what the run computes.
FREE = ("trainer.", "callbacks.", "logger.", "debug", "resume_force", "trust")
FIXED = ("trainer.accumulate",)
BUILT = ("model", "data", "trainer", "callbacks", "logger")  # what a configuration builds objects of


def configure(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any] | None]:
    """The configuration of the run that a command line means, and the checkpoint to go on from, if any.

    Raises: ValueError or FileNotFoundError for unknown settings or runs, and for settings that a resumed run refuses.
    """
    parsed = parse(overrides)
    names = [o.value() for o in parsed if o.key_or_group == "resume"]
    if names and names[-1] is not None:
        rest = [o for o in parsed if o.key_or_group != "resume"]
        return resumed(str(names[-1]), rest)
    return fresh(overrides), None


def fresh(overrides: Sequence[str]) -> DictConfig:
    """A new run's configuration, with its directory chosen."""
    cfg = compose("train", overrides)
    # Only process 0 writes; the others, which would read another time for a name, need no directory.
    path = run_dir.choose(cfg) if is_process_zero() else Path(cfg.run_dir or cfg.paths.runs)
    with open_dict(cfg):
        cfg.run_dir, cfg.name = str(path), path.name
        if cfg.get("logger") and cfg.logger.get("wandb"):
            cfg.logger.wandb.id = secrets.token_hex(4)
    settle(cfg)
    if is_process_zero():
        remember(plain({key: cfg[key] for key in BUILT if key in cfg}) | {"ckpt": cfg.init}, path)
    return cfg


def resumed(run: str, overrides: Sequence[Override]) -> tuple[DictConfig, dict[str, Any] | None]:
    """A run's own configuration with the permitted changes, and its newest good checkpoint."""
    here = compose("train", []).paths
    path = run_dir.find(run, Path(here.runs))
    cfg = read_foreign_config(path / run_dir.SOURCE)
    check_run(cfg, path)
    OmegaConf.set_struct(cfg, True)
    force = any(o.key_or_group == "resume_force" and o.value() for o in overrides)
    for override in overrides:
        change(cfg, override, force)
    cfg.run_dir, cfg.resume_force, cfg.paths.runs = str(path), force, here.runs
    # After the changes, which what is built may refer to. What the user types here is the user's word.
    trust = [*trusted(cfg.trust), *(str(o.value()) for o in overrides)]
    check_targets({key: cfg[key] for key in BUILT}, trust=trust, run=path)
    check_targets(cfg.model, "model", trust=trust, kind=MODULE)
    check_targets(cfg.data, "data", trust=trust, kind=DATA)
    check_folder(path, trust)
    if is_process_zero():
        run_dir.sweep(path)
    newest = newest_good(path / "checkpoints")
    if newest is None:
        check_places({"ckpt": cfg.init}, trust)
        print(f"{path} has no checkpoint yet: starting at step 0", flush=True)
        return cfg, None
    checkpoint = read(newest)
    check_contents(checkpoint, newest)
    return cfg, checkpoint | {"path": str(newest)}


def check_run(cfg: DictConfig, path: Path) -> None:
    """Raises ValueError unless a run's configuration has the parts that every run has; adds those of newer versions."""
    needed = ("model", "data", "trainer", "paths", "choices")
    if lacking := next((key for key in needed if not OmegaConf.is_dict(cfg.get(key))), None):
        raise ValueError(f"{path / run_dir.SOURCE} is damaged or no run's: it has no settings of {lacking}")
    for key in ("callbacks", "logger", "init", "run_dir", "resume_force"):
        if key not in cfg:
            cfg[key] = None
    cfg.trust = None  # the word of whoever types, never of the file


def change(cfg: DictConfig, override: Override, force: bool) -> None:
    """Applies one override to a resumed run's configuration, and says so."""
    key = override.key_or_group
    keeps = f"{override.input_line}: a resumed run keeps its {key}; change single settings, such as {key}.… ="
    if override.is_add() or override.is_delete() or not has_key(cfg, key):
        if key in cfg.choices:
            raise ValueError(keeps)
        raise ValueError(unknown_setting(override, cfg))
    old, value = OmegaConf.select(cfg, key), override.value()
    old = OmegaConf.to_container(old) if OmegaConf.is_config(old) else old
    if isinstance(old, dict) and value is not None or key in ("model", "data"):
        raise ValueError(keeps)
    if key == "resume_force" or old == value:
        return
    if not force and (not key.startswith(FREE) or key in FIXED):
        what = f"{override.input_line}: the run has {key}={old}, and changing it would make another run of it"
        raise ValueError(f"{what}; start a new one, or add resume_force=true")
    OmegaConf.update(cfg, key, value)
    if is_process_zero():
        print(f"changed: {key}={old} -> {value}", flush=True)


def is_process_zero() -> bool:
    """Whether this process writes files; known from the environment before any process group exists."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return rank_zero_only.rank == 0
