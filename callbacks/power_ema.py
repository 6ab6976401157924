"""Power-function averages of the weights, stored as the run goes, so that their length can be chosen after training."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.ema import trainable
from callbacks.steps import due, step_done
from files import replacing, why_not_written
from optimizers.power_ema import beta, gamma_of
from optimizers.sharded import cut, for_checkpoint, local


class PowerEMA(pl.Callback):
    """Keeps one average per length and stores all of them every so many steps; `runtime.ema_length` makes any other.

    The averages are float32 and in the checkpoint; of sharded weights each process keeps its part. Snapshots, `step=….pt` in float16 by default, are written in one step;
    a resumed run writes those of its steps again, with the same bytes, and removes those of later steps.

    Args:
        dir: folder of the snapshots.
        every_steps: optimiser steps between two snapshots; there is one at the end, too.
        sigma_rel: lengths that are tracked, at least two.
        dtype: of the snapshots, float16 or float32.
    Raises: ValueError for settings out of range.
    Source: Karras et al. 2024 (EDM2), section 3 and appendix C (post-hoc EMA)
    """

    def __init__(
        self, dir: str, every_steps: int = 1000, sigma_rel: Sequence[float] = (0.05, 0.10), dtype: str = "float16"
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"callbacks.power_ema.every_steps={every_steps}: at least 1")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"callbacks.power_ema.dtype={dtype}: float16 or float32")
        if len(set(sigma_rel)) < 2:
            raise ValueError(f"callbacks.power_ema.sigma_rel={list(sigma_rel)}: give two different lengths or more")
        self.dir, self.every_steps, self.sigma_rel, self.dtype = Path(dir), every_steps, list(sigma_rel), dtype
        self.gammas = [gamma_of(s) for s in self.sigma_rel]
        self.averages: list[dict[str, Tensor]] = []
        self._live: dict[str, Tensor] = {}
        self.num_updates = 0
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._live = trainable(module)
        weights = {name: local(p).detach().float() for name, p in self._live.items()}
        self.averages = [{name: w.clone() for name, w in weights.items()} for _ in self.gammas]
        if self._loaded is not None:
            self.num_updates = self._loaded["num_updates"]
            for mine, theirs in zip(self.averages, self._loaded["averages"]):
                for name, value in mine.items():
                    value.copy_(cut(theirs[name], self._live[name]))
            self._loaded = None
        if trainer.is_global_zero and self.dir.is_dir():
            for path in self.dir.glob("step=*.pt"):  # of steps that this run has not come to, or has gone back from
                if step_of(path) > self.num_updates:
                    path.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not step_done(trainer, module):
            return
        self.num_updates += 1
        for gamma, average in zip(self.gammas, self.averages):
            new = [local(self._live[name]).detach().float() for name in average]
            torch._foreach_lerp_(list(average.values()), new, 1 - beta(self.num_updates, gamma))
        if due(trainer, module, self.every_steps):
            self.store(trainer.is_global_zero)

    def whole(self) -> list[dict[str, Tensor | None]]:
        """The averages of all processes together, on process 0; all of them call this."""
        return [{name: for_checkpoint(value, self._live[name]) for name, value in average.items()} for average in self.averages]

    def store(self, write: bool = True) -> None:
        """Write the averages of this step, on process 0 alone; a full disk takes none, and training goes on. All processes call this."""
        averages = self.whole()
        if not write:
            return
        content = {
            "step": self.num_updates,
            "gammas": self.gammas,
            "averages": [{n: v.cpu().to(getattr(torch, self.dtype)) for n, v in a.items()} for a in averages],
        }
        path = self.dir / f"step={self.num_updates:08d}.pt"
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=True) as fresh, open(fresh, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            print(f"warning: no {path.name} of the averages: {why_not_written(error, self.dir)}", flush=True)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["power_ema"] = {
            "num_updates": self.num_updates, "sigma_rel": self.sigma_rel, "averages": self.whole(),
        }  # fmt: skip

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get("power_ema")
        if found is None:
            raise ValueError("callbacks.power_ema: the run began without these averages; they need every step from the first")
        if found["sigma_rel"] != self.sigma_rel:
            raise ValueError(f"callbacks.power_ema.sigma_rel={self.sigma_rel}: the run tracks {found['sigma_rel']}")
        self._loaded = found


def step_of(path: Path) -> int:
    """The step in the name of a snapshot; -1 for another file."""
    digits = path.stem.removeprefix("step=")
    return int(digits) if digits.isdecimal() else -1
