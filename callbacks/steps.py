"""When things happen: on whole optimiser steps, counted by the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from callbacks.ema import EMA
from callbacks.stop import Stop


def step_done(trainer: pl.Trainer, module: Any) -> bool:
    """Whether the batch that just ended completed an optimiser step."""
    return module.batches_seen % trainer.accumulate_grad_batches == 0


def due(trainer: pl.Trainer, module: Any, every_steps: int | None) -> bool:
    """Whether something done every N steps, and at the end of the run, is due now."""
    if not step_done(trainer, module):
        return False
    return finished(trainer, module) or bool(every_steps) and module.optimizer_steps % every_steps == 0


def finished(trainer: pl.Trainer, module: Any) -> bool:
    """Whether the run has used up its steps or its time; a run that a signal stops is not finished."""
    out_of_time = any(isinstance(c, Stop) and c.out_of_time for c in trainer.callbacks)
    return out_of_time or module.batches_seen >= trainer.datamodule.num_batches


@contextmanager
def evaluating(trainer: pl.Trainer, module: Any, *, together: bool = False) -> Iterator[None]:
    """Averaged weights, evaluation mode, no gradients and the run's precision; everything is put back at the end.

    All processes enter it, those too that then do nothing: sharded weights are whole inside, and each process may make as many
    forward passes as it likes.

    Args:
        together: all processes get the buffers of process 0, such as the running means of batch normalisation, which are
            those of a checkpoint.
    """
    modes = {part: part.training for part in module.modules()}
    ema = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)
    module.eval()
    try:
        averaged = nullcontext() if ema is None else ema.applied(module)
        whole = getattr(module, "whole_nets", nullcontext)
        with torch.no_grad(), trainer.precision_plugin.val_step_context(), averaged, whole():
            if together and dist.is_available() and dist.is_initialized():
                for buffer in module.buffers():  # also those that are averaged
                    dist.broadcast(buffer, 0)
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
