"""Contrastive objectives between images and their captions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def clip_loss(image: Tensor, text: Tensor, logit_scale: Tensor | float, positive: Tensor | None = None) -> Tensor:
    """Mean of two cross-entropies: each image picks its caption among all of the batch, and each caption its image.

    Args:
        image, text: embeddings (B, D) of unit length, row i of one belonging to row i of the other.
        logit_scale: inverse temperature, as a number (not its logarithm).
        positive: (B, B) bool, True where an image fits a caption, at least on the diagonal; all that fit share the target
            evenly. None: nothing fits but the diagonal. Two images with one caption would otherwise be told to repel it.
    Source: Radford et al. 2021, figure 3; Khosla et al. 2020, eq. 2 (several positives)
    """
    logits = logit_scale * image @ text.T  # (B, B)
    if positive is None:
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    fits = positive.to(logits.dtype)
    of_images, of_texts = fits / fits.sum(1, keepdim=True), fits.T / fits.T.sum(1, keepdim=True)
    return (F.cross_entropy(logits, of_images) + F.cross_entropy(logits.T, of_texts)) / 2


def siglip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float, positive: Tensor | None = None
) -> Tensor:
    """Each pair of image and caption is judged by itself: fits or not. A sum over the pairs of an image, a mean over images.

    Args: as of `clip_loss`; logit_bias is added to every logit, and begins far below 0, for most pairs do not fit.
    Source: Zhai et al. 2023 (SigLIP), algorithm 1
    """
    logits = logit_scale * image @ text.T + logit_bias  # (B, B)
    fits = torch.eye(len(logits), dtype=torch.bool, device=logits.device) if positive is None else positive
    return -F.logsigmoid(torch.where(fits, logits, -logits)).sum() / len(logits)
