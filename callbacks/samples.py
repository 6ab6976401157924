"""Sample grids during training, on fixed conditions and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL.Image import Image

from callbacks.film import write_film
from callbacks.pictures import publish
from callbacks.steps import due, evaluating, finished
from contracts import Reconstructs, Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from files import why_not_written

FIELDS = {"text": ("texts",), "label": ("labels",), "none": ()}  # of a request, by what a module draws from
COLUMNS = 8  # images that are shown with their reconstructions


class SampleGrid(pl.Callback):
    """Writes `step=….png`, a grid of images drawn with the averaged weights, and sends it to the loggers.

    Process 0 samples alone. Where a module refuses (an untrained stage), training goes on without a grid. A module that
    has `reconstruct(batch)` gets a second picture, `reconstructions-step=….png`: validation images, the same at every
    step, underneath what the model makes of them. Where training ends or is stopped, the grids of all sessions become a
    film, `samples.gif` beside their folder.

    Args:
        dir: folder of the grids.
        every_steps: optimiser steps between two grids; None only at the end.
        conditions: prompts or class numbers; None asks the module for its examples, and where it has no prompts the data.
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
        self._told: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        # A run that a signal stops saves its weights at once; the grid of that step is drawn when it goes on.
        if module.optimizer_steps and due(trainer, module, self.every_steps):
            there = self.path(module).exists()
            if trainer.world_size > 1:  # all draw or none: file systems of several machines may differ
                there = trainer.strategy.broadcast(there)
            if not there:
                self.draw(trainer, module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        # Before the checkpoint, the last one included: a run killed between the two would be finished without its grid.
        if due(trainer, module, self.every_steps) and (finished(trainer, module) or not trainer.should_stop):
            self.draw(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        try:
            write_film(self.dir, self.dir.with_suffix(".gif"))
        except OSError as error:  # a full disk takes no film, but the run has ended well
            print(f"warning: no film of the samples: {why_not_written(error, self.dir.parent)}", flush=True)

    def path(self, module: Any, name: str = "samples") -> Path:
        """Where a picture of this step goes."""
        prefix = "" if name == "samples" else f"{name}-"
        return self.dir / f"{prefix}step={module.optimizer_steps:08d}.png"

    def draw(self, trainer: pl.Trainer, module: Any) -> None:
        """Make the pictures of this step and write them, on process 0."""
        self.write(trainer, module, "samples", self.samples)
        if isinstance(module, Reconstructs) and trainer.datamodule.val_dataset is not None:
            self.write(trainer, module, "reconstructions", reconstructions)

    def samples(self, trainer: pl.Trainer, module: Any) -> Image | None:
        """The module's samples; None if it draws nothing."""
        request = asked(self.conditions, module.conditioning) if self.conditions else module.example_request()
        if not request.n and module.conditioning == "text" and (prompts := trainer.datamodule.example_prompts()):
            request = asked(prompts, "text")
        if not request.n:
            return None
        if (reason := module.sampling_refusal()) is not None:
            raise ValueError(reason)
        image = module.sample(request, seeds=[self.seed + i for i in range(request.n)], **self.options)
        return captioned_grid(to_uint8(image.cpu()), request.names())

    def write(self, trainer: pl.Trainer, module: Any, name: str, make: Callable[..., Image | None]) -> None:
        """Make one picture with the averaged weights, write it and send it to the loggers under `name`."""
        try:
            with evaluating(trainer, module):
                grid = make(trainer, module) if trainer.is_global_zero else None
        except ValueError as error:  # an untrained stage, or weights that diverged, must not end the training
            if str(error) not in self._told:
                print(f"no {name.removesuffix('s')} grid: {error}", flush=True)
            self._told.add(str(error))
            return
        if grid is None:
            return
        publish(trainer, module, self.path(module, name), name, grid)


def asked(conditions: Sequence[Any], kind: str) -> Request:
    """A request for prompts or class numbers, whichever a module of this kind of conditioning draws from."""
    return Request(len(conditions), **{field: list(conditions) for field in FIELDS[kind]})


def reconstructions(trainer: pl.Trainer, module: Any) -> Image:
    """The first validation images in the lower row, the module's reconstructions of them above."""
    batch = trainer.strategy.batch_to_device(next(iter(trainer.datamodule.val_dataloader())))
    rebuilt, image = module.reconstruct(batch).float()[:COLUMNS], batch["image"][:COLUMNS]
    return captioned_grid(to_uint8(torch.cat([rebuilt, image]).cpu()), columns=len(image))
