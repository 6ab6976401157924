"""Checks of a GAN's settings; each refusal is one line."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from objectives.adversarial import LOSSES


def check_arguments(counts: dict[str, Any], weights: dict[str, Any]) -> None:
    """Raises ValueError, naming the setting, for a value out of range."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"model.{name}={value!r}: a whole number of at least 1")
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"model.{name}={value!r}: a number of at least 0")


def check_layers(discriminator: nn.Module, weights: dict[str, float], loss: str) -> None:
    """Raises ValueError for penalties beside batch norm, and for a Wasserstein loss with nothing to bound D's slope."""
    if weights and discriminator.batch_norm:
        raise ValueError(f"model.{next(iter(weights))} needs a score for each image by itself, and the discriminator "
                         "has batch norm: give it another, for instance players.discriminator.norm=layer")
    bounded = any(parametrize.is_parametrized(layer) for layer in discriminator.modules())
    if LOSSES[loss] is LOSSES["wasserstein"] and not weights and not bounded:
        raise ValueError("model.loss=wasserstein needs a bound on the discriminator's slope: set "
                         "model.gradient_penalty=10, or players.discriminator.spectral=true")
