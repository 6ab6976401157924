"""Sample grids during training, on fixed conditions and seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.grid import captioned_grid
from callbacks.steps import due, evaluating, finished
from evaluators.images import to_uint8


class SampleGrid(pl.Callback):
    """Writes `step=….png`, a grid of images drawn with the averaged weights, and sends it to the loggers.

    Process 0 samples alone. Where a module refuses (an untrained stage), training goes on without a grid.

    Args:
        dir: folder of the grids.
        every_steps: optimiser steps between two grids; None only at the end.
        conditions: prompts or class numbers; None asks the module for its examples.
        seed: image i is drawn from seed + i, at every step the same.
        options: passed to the module's sample(), for instance {guidance_scale: 2}.
    """

    def __init__(
        self,
        dir: str,
        every_steps: int | None = 1000,
        conditions: Sequence[Any] | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.dir, self.every_steps, self.conditions = Path(dir), every_steps, conditions
        self.seed, self.options = seed, dict(options or {})
        self._told: str | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        # A run that a signal stops saves its weights at once; the grid of that step is drawn when it goes on.
        if module.optimizer_steps and due(trainer, module, self.every_steps) and not self.path(module).exists():
            self.draw(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        # Before the checkpoint, the last one included: a run killed between the two would be finished without its grid.
        if due(trainer, module, self.every_steps) and (finished(trainer, module) or not trainer.should_stop):
            self.draw(trainer, module)

    def path(self, module: Any) -> Path:
        """Where the grid of this step goes."""
        return self.dir / f"step={module.optimizer_steps:08d}.png"

    def draw(self, trainer: pl.Trainer, module: Any) -> None:
        """Sample the grid of this step and write it."""
        if not trainer.is_global_zero:
            return
        conditions = list(self.conditions) if self.conditions else module.example_conditions()
        n = conditions if isinstance(conditions, int) else len(conditions)
        if not n:
            return
        try:
            if (reason := module.sampling_refusal()) is not None:
                raise ValueError(reason)
            with evaluating(trainer, module):
                image = module.sample(conditions, seeds=[self.seed + i for i in range(n)], **self.options)
            image_u8 = to_uint8(image.cpu())
        except ValueError as error:  # an untrained stage, or weights that diverged, must not end the training
            if str(error) != self._told:
                print(f"no sample grid: {error}", flush=True)
            self._told = str(error)
            return
        captions = None if isinstance(conditions, int) else [str(c) for c in conditions]
        grid = captioned_grid(image_u8, captions)
        self.dir.mkdir(parents=True, exist_ok=True)
        path = self.path(module)
        fresh = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        grid.save(fresh, format="png")
        os.replace(fresh, path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_picture"):
                logger.log_picture("samples", grid, step=module.optimizer_steps)
