"""Skips optimiser steps whose gradient is not finite."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from optimizers.sharded import total_norm


class NanGuard(pl.Callback):
    """Drops the gradients of a step with a NaN or infinite norm, so that the weights stay as they were.

    With several processes it sees the averaged gradients, of sharded weights the norm over all of them: all decide alike.
    Reading the norm waits for the device once per step.

    Args:
        max_in_a_row: give up after more skipped steps than this without a good one between.
    Raises: FloatingPointError when giving up.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        self.max_in_a_row = max_in_a_row
        self.in_a_row: dict[int, int] = {}  # by optimiser: of two players one alone can be lost
        self.total = 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        which = trainer.optimizers.index(optimizer)
        if not params or torch.isfinite(total_norm([p.grad for p in params])):
            self.in_a_row[which] = 0
            return
        self.in_a_row[which] = self.in_a_row.get(which, 0) + 1
        self.total += 1
        for p in params:
            p.grad = None
        if self.in_a_row[which] > self.max_in_a_row:
            raise FloatingPointError(
                f"the gradient was not finite {self.in_a_row[which]} steps in a row, up to step "
                f"{module.optimizer_steps + 1}: lower the learning rate or look at the data"
            )
        print(f"step {module.optimizer_steps + 1}: gradient not finite, step skipped ({self.total} so far)", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_a_row, self.total = dict(state["in_a_row"]), state["total"]
