"""Activation checkpointing: what blocks compute on the way forward is computed again on the way back, not kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from networks import clip, dit, efficient_unet, unet, unet_ddpm

BLOCKS = (unet.Block, dit.DiTBlock, efficient_unet.Level, unet_ddpm.Block, clip.Block)  # of every net of this house


def checkpoint_blocks(module: nn.Module) -> int:
    """Keeps, of every block in a module, only the inputs for the backward pass; returns the number of blocks.

    The gradients are the same bits, dropout included, for one more forward pass of the blocks. Names of parameters stay.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"
    """
    blocks = [part for part in module.modules() if isinstance(part, BLOCKS)]
    for block in blocks:
        block.forward = functools.partial(_again, block.forward)
    return len(blocks)


def _again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
