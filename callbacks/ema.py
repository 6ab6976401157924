"""Exponential moving average of the trainable weights, and of the statistics of batch norm that belong to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from optimizers.sharded import cut, for_checkpoint, local

STATISTICS = ("running_mean", "running_var")


class EMA(pl.Callback):
    """Average of the trainable parameters, in float32, saved under ckpt["ema"]; what sampling and evaluation use.

    Of sharded parameters each process averages its part.

    The first steps average over a shorter past, min(decay, (1 + n) / (10 + n)) after n updates, so that the random
    initial weights are forgotten at once.

    Args:
        decay: share of the old average kept at each step, in [0, 1).
        half_life_images: images after which a weight's influence has halved; sets the decay instead.
    Raises: ValueError unless exactly one of the two is given, and in range.
    """

    def __init__(self, decay: float | None = 0.9999, half_life_images: float | None = None) -> None:
        if (decay is None) == (half_life_images is None):
            raise ValueError("callbacks.ema: give decay or half_life_images, and set the other to null")
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay={decay} is outside [0, 1)")
        if half_life_images is not None and half_life_images <= 0:
            raise ValueError(f"callbacks.ema.half_life_images={half_life_images} must be above 0")
        self.decay, self.half_life_images = decay, half_life_images
        self.num_updates = 0
        self.params: dict[str, Tensor] = {}
        self._live: dict[str, Tensor] = {}  # the same of the module, found once: a walk through its parameters takes 10 ms
        self._loaded: dict[str, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if self.half_life_images is not None:
            images_per_step = trainer.datamodule.batch_size * trainer.accumulate_grad_batches
            self.decay = 0.5 ** (images_per_step / self.half_life_images)
        self._live = trainable(module)
        self.params = {name: local(p).detach().float().clone() for name, p in self._live.items()}
        for name, value in (self._loaded or {}).items():
            if name in self.params:
                self.params[name].copy_(cut(value, self._live[name]))
        self._loaded = None

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if module.batches_seen % trainer.accumulate_grad_batches == 0:
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            new = [local(p).detach().float() for p in self._live.values()]
            torch._foreach_lerp_(list(self.params.values()), new, 1 - decay)
            self.num_updates += 1

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module with averaged weights; its own come back bit for bit."""
        live = trainable(module)
        params = [local(live[name]) for name in self.params]
        saved = [p.detach().clone() for p in params]
        with torch.no_grad():
            torch._foreach_copy_(params, list(self.params.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, saved)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        params = {name: for_checkpoint(value, self._live[name]) for name, value in self.params.items()}
        checkpoint["ema"] = {"num_updates": self.num_updates, "params": params}

    def on_load_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if "ema" in checkpoint:
            self.num_updates, self._loaded = checkpoint["ema"]["num_updates"], checkpoint["ema"]["params"]


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """Name -> what training changes and sampling uses: parameters that train, running statistics of batch norm.

    Of a module that says so in `averaged`, only those whose names begin like that.
    """
    params = {name: p for name, p in module.named_parameters() if p.requires_grad}
    # Averaged weights have other activations than the live ones, whose statistics would not fit them.
    params |= {name: b for name, b in module.named_buffers() if name.endswith(STATISTICS)}
    return {name: p for name, p in params.items() if name.startswith(getattr(module, "averaged", ""))}
