"""Pairing noise with data inside a batch by optimal transport, for unconditional flow matching."""

from __future__ import annotations

import torch
from torch import Tensor


def pair(eps: Tensor, x_0: Tensor) -> Tensor:
    """The order (B,) of eps such that the sum of squared distances of eps[order] and x_0, both (B, ...), is least.

    `eps = eps[pair(eps, x_0)]` before the noise is added makes the paths straighter and changes neither marginal. Only
    without conditions: with them, the noise that a condition sees in training is not the noise it is sampled from. The
    images of a batch then depend on each other, and over several processes each pairs its own.
    Raises: ValueError if the batches differ in shape.
    Source: Pooladian et al. 2023, section 3; Tong et al. 2023, section 3.2 (exact assignment of the batch)
    """
    from scipy.optimize import linear_sum_assignment

    if eps.shape != x_0.shape:
        raise ValueError(f"eps {tuple(eps.shape)} and x_0 {tuple(x_0.shape)}: pairing needs equal shapes")
    # Squared norms are the same for every pairing: what is left to maximise is the inner product.
    gain = x_0.detach().flatten(1).double() @ eps.detach().flatten(1).double().T
    _, order = linear_sum_assignment(gain.cpu().numpy(), maximize=True)
    return torch.as_tensor(order, device=eps.device)
