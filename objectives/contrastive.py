"""Contrastive objectives between images and their captions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Mean of two cross-entropies: each image picks its caption among all of the batch, and each caption its image.

    Args:
        image, text: embeddings (B, D) of unit length, row i of one belonging to row i of the other.
        logit_scale: inverse temperature, as a number (not its logarithm).
    Source: Radford et al. 2021, figure 3
    """
    logits = logit_scale * image @ text.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
