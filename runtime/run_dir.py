"""Run directories: where a run lives, finding one again, and leaving no rubbish in it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

SOURCE = "resume.yaml"  # the configuration with its interpolations, which resume=RUN starts from


def choose(cfg: DictConfig) -> Path:
    """The directory of a new run, not made yet. Raises ValueError if it holds a run already."""
    runs = Path(cfg.paths.runs)
    if cfg.run_dir is not None:
        path = Path(cfg.run_dir).resolve()
    else:
        parent = runs / str(cfg.choices.model) / str(cfg.choices.data)
        path = parent / cfg.name if cfg.name else _unused(parent / time.strftime("%Y-%m-%d_%H-%M-%S"))
    if any((path / "checkpoints").glob("step=*.ckpt")) or (path / "metrics.jsonl").exists():
        raise ValueError(f"{path} holds a run already: continue it with resume={path}, or choose another name=")
    return path.resolve()


def create(path: Path, cfg: DictConfig) -> None:
    """Makes the directory with the configuration in it and points `runs/latest` at it."""
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_config(path, cfg)
    runs = Path(cfg.paths.runs).resolve()
    if path.is_relative_to(runs):
        point_latest(runs, path)


def _unused(path: Path) -> Path:
    count, free = 1, path
    while free.exists():
        count += 1
        free = path.with_name(f"{path.name}-{count}")
    return free


def point_latest(runs: Path, path: Path) -> None:
    """Replaces the relative link `runs/latest` in one step; a file system without links does without."""
    fresh = runs / f".latest.tmp-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(path, runs))
        os.replace(fresh, runs / "latest")
    except OSError:
        fresh.unlink(missing_ok=True)


def save_config(path: Path, cfg: DictConfig) -> None:
    """Writes `config.yaml` (resolved, to be read) and `resume.yaml` (with interpolations, to continue from)."""
    for name, resolve in (("config.yaml", True), (SOURCE, False)):
        fresh = path / f"{name}.tmp-{os.getpid()}"
        fresh.write_text(OmegaConf.to_yaml(cfg, resolve=resolve))
        os.replace(fresh, path / name)


def find(run: str, runs: Path) -> Path:
    """The directory of the run to resume: a path, or a path below runs/. Raises FileNotFoundError or ValueError."""
    for path in (Path(run), runs / run):
        if (path / SOURCE).is_file():
            return path.resolve()
        if path.is_file():
            raise ValueError(f"resume={run}: give the run directory, not a file in it")
    raise FileNotFoundError(f"resume={run}: no run there{listing(runs)}")


def listing(runs: Path) -> str:
    """`; runs: a, b, c` with the newest runs, or nothing."""
    found = sorted(runs.glob(f"*/*/*/{SOURCE}"), key=lambda p: p.stat().st_mtime, reverse=True)
    return f"; runs: {', '.join(str(p.parent.relative_to(runs.parent)) for p in found[:5])}" if found else ""


def sweep(path: Path) -> None:
    """Deletes temporary files that a killed process left in a run directory."""
    for folder in (path, path / "checkpoints", path / "samples"):
        for stale in folder.glob("*.tmp-*"):
            stale.unlink(missing_ok=True)
