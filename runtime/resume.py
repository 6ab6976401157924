"""Which configuration a command means: a new run's, or that of a run to continue."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from runtime import run_dir
from runtime.build import DATA, MODULE, check_targets, plain
from runtime.checkpoint import check_contents
from runtime.checkpoint_io import checkpoints, read, step_of, verified
from runtime.config import compose, has_key, parse, unknown_setting
from runtime.foreign import read_foreign_config, settle
from runtime.places import check_folder, check_places, remember, trusted
from runtime.settings import check_judges, check_train

BUILT = ("model", "data", "trainer", "callbacks", "logger")  # what a configuration builds objects of
# What does not change the weights that a run computes: how long, where, what is shown and kept on the way. A name ends
# at a dot or covers all below it. Everything else is refused in a resumed run, unless it is forced.
FREE = (
    "callbacks.checkpoint",
    "callbacks.evaluate",
    "callbacks.loss_by_level",
    "callbacks.retrieval",
    "callbacks.metrics_log",
    "callbacks.progress",
    "callbacks.samples",
    "callbacks.validate",
    "data.cache_dir",
    "data.cache_gb",
    "data.cache_in_memory",
    "data.local_dir",
    "data.num_workers",
    "data.root",  # what is in it is compared by its fingerprint
    "debug",
    "logger",
    "name",
    "paths",
    "resume",
    "resume_force",
    "run_dir",
    "text_encoder.cache_dir",
    "text_encoder.cache_gb",  # a vector from the cache is the same as a new one
    "trainer.accelerator",
    "trainer.checkpoint_activations",
    "trainer.compile",
    "trainer.devices",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.num_nodes",
    "trainer.stop",
    "trainer.strategy",
    "trust",
)
ROUNDING = ("trainer.accelerator", "trainer.compile", "trainer.devices", "trainer.num_nodes", "trainer.strategy")  # other sums, the same to rounding


def configure(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, Any] | None]:
    """The configuration of the run that a command line means, and the checkpoint to go on from, if any.

    Process 0 holds the lock of a run that goes on from here.

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
    check_train(cfg)
    check_judges(plain({key: cfg[key] for key in cfg if key in (*BUILT, "classifier", "extractor")}))
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
    path = run_dir.find(run, Path(compose("train", []).paths.runs))
    trust = [word for o in overrides for word in trusted(o.value())]  # what the user types here is the user's word
    cfg = read_foreign_config(path / run_dir.SOURCE)
    check_run(cfg, path)
    OmegaConf.set_struct(cfg, True)
    check_folder(path, trust)  # before anything is written to it
    try:
        if is_process_zero():
            _take(path)
        force = any(forced(o) for o in overrides if o.key_or_group == "resume_force")
        for override in overrides:
            change(cfg, override, force)
        cfg.run_dir, cfg.resume_force = str(path), force
        cfg.paths.runs = "${repo:runs}"  # the file does not decide where runs/latest is
        # After the changes, which what is built may refer to.
        check_targets({key: cfg[key] for key in BUILT}, trust=trust, run=path)
        check_targets(cfg.model, "model", trust=trust, kind=MODULE)
        check_targets(cfg.data, "data", trust=trust, kind=DATA)
        check_train(cfg)
        checkpoint = newest_checkpoint(path, force)
        if checkpoint is None:
            check_places({"ckpt": cfg.init}, trust)
        else:
            given = {o.key_or_group for o in overrides}
            compare(cfg, checkpoint.get("config_source") or {}, path, force, given)
        if is_process_zero():  # data.root=ELSEWHERE holds for the sessions to come too
            remember({o.key_or_group.rpartition(".")[2]: o.value() for o in overrides}, path)
        return cfg, checkpoint
    except BaseException:
        run_dir.unlock(path)
        raise


def forced(override: Override) -> bool:
    """Whether `resume_force` is given. Raises ValueError for what is neither true nor false."""
    if not isinstance(override.value(), bool):
        raise ValueError(f"{override.input_line}: give true or false")
    return override.value()


def check_run(cfg: DictConfig, path: Path) -> None:
    """Raises ValueError unless a run's configuration has the parts that every run has; adds those of newer versions."""
    needed = ("model", "data", "trainer", "paths", "choices")
    if lacking := next((key for key in needed if not OmegaConf.is_dict(cfg.get(key))), None):
        raise ValueError(f"{path / run_dir.SOURCE} is damaged or no run's: it has no settings of {lacking}")
    for key in ("callbacks", "logger", "init", "run_dir", "resume_force"):
        if key not in cfg:
            cfg[key] = None
    for name, value in (("num_nodes", 1), ("checkpoint_activations", False), ("compile", False)):
        cfg.trainer.setdefault(name, value)
    cfg.trust = None  # the word of whoever types, never of the file


def _take(path: Path) -> None:
    try:
        run_dir.lock(path)
        run_dir.sweep(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written, so the run cannot go on: {error.strerror}") from None


def newest_checkpoint(path: Path, force: bool) -> dict[str, Any] | None:
    """The newest usable checkpoint of a run, with its `path`; later files, which are damaged, are renamed `….damaged`.

    Returns: None where a run has no checkpoint yet, or where all are damaged and `force` is given.
    Raises: ValueError if all are damaged, or one cannot be read: to start over would cost what the run has recorded.
    """
    found, damaged, newest = checkpoints(path / "checkpoints"), [], None
    for file in reversed(found):
        newest = usable(file)
        if newest is not None:
            break
        damaged.append(file)
    if damaged and newest is None and not force:
        names = ", ".join(file.name for file in damaged[:3]) + (", …" if len(damaged) > 3 else "")
        what = f"all {len(damaged)} checkpoints of {path} are damaged ({names}), nothing was changed"
        raise ValueError(f"{what}: put a good one back, or add resume_force=true to start over at step 0")
    for file in damaged if is_process_zero() else ():
        aside = file.with_name(f"{file.name}.damaged")
        then = "starting at step 0" if newest is None else "using the checkpoint before it"
        # Told first: a kill between the two tells it twice, never not at all.
        print(f"warning: {file} is damaged, now {aside.name}; {then}", flush=True)
        os.replace(file, aside)
    if newest is None and not damaged and is_process_zero():
        print(f"{path} has no checkpoint yet: starting at step 0", flush=True)
    return newest


def usable(file: Path) -> dict[str, Any] | None:
    """A checkpoint's contents; None if it is damaged or not of the step in its name. Raises ValueError if it is unreadable."""
    try:
        with open(file, "rb") as opened:
            opened.read(1)
    except FileNotFoundError:  # process 0 has just renamed it
        return None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}; nothing was changed") from None
    if not verified(file):
        return None
    contents = read(file)
    check_contents(contents, file)
    return contents | {"path": str(file)} if contents["counters"]["optimizer_steps"] == step_of(file) else None


def change(cfg: DictConfig, override: Override, force: bool) -> None:
    """Applies one override to a resumed run's configuration, and prints the change."""
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
    if not force and not is_free(key):
        what = f"{override.input_line}: the run has {key}={old}, and changing it would make another run of it"
        raise ValueError(f"{what}; start a new one, or add resume_force=true")
    note = effect(cfg, key)
    OmegaConf.update(cfg, key, value)
    if is_process_zero():
        print(f"changed: {key}={old} -> {value}{note}", flush=True)


def effect(cfg: DictConfig, key: str) -> str:
    """What a change does to the result, in brackets, where it is not plain."""
    if key in ROUNDING:
        return " (the same to rounding)"
    source = OmegaConf.to_container(cfg, resolve=False)
    follow = [name for name, value in flat(source) if f"${{{key}}}" in str(value) and not is_free(name)]
    if follow:
        return f" ({', '.join(follow)} follows it)"
    return "" if is_free(key) else " (another run from here on)"


def is_free(key: str) -> bool:
    """Whether a setting may change between two sessions of a run without changing what it computes."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def compare(cfg: DictConfig, then: dict[str, Any], path: Path, force: bool, given: set[str]) -> None:
    """Raises ValueError where the configuration differs from the checkpoint's in what a run computes, unless forced.

    It does where resume.yaml was edited, or where a forced session ended before it saved. Changes of the overrides
    `given` have been judged and listed already.
    """
    before, now = dict(flat(then)), dict(flat(OmegaConf.to_container(cfg, resolve=False)))
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        judged = any(key == name or key.startswith(f"{name}.") for name in given)
        if old == new or judged or is_free(key) or key == "trainer.precision" and old is None:
            continue  # a run without a record of its precision is an old one
        if not force:
            what = f"{path / run_dir.SOURCE} has {key}={new}, and the newest checkpoint was computed with {old}"
            raise ValueError(f"{what}: set it back, or add resume_force=true to go on with {new}")
        if is_process_zero():
            print(f"changed: {key}={old} -> {new}{effect(cfg, key)}", flush=True)


def flat(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested dicts; lists are values."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def is_process_zero() -> bool:
    """Whether this process writes files; known from the environment before any process group exists."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return rank_zero_only.rank == 0
