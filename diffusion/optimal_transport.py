"""Pairing noise with data inside a batch by optimal transport, for unconditional flow matching."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def pair(eps: Tensor, x_0: Tensor) -> Tensor:
    """The order (B,) of eps such that the sum of squared distances of eps[order] and x_0, both (B, ...), is least.

    `eps = eps[pair(eps, x_0)]` before the noise is added makes the paths straighter and changes neither marginal. Only
    without conditions: with them, the noise that a condition sees in training is not the noise it is sampled from.
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


def paired(eps: Tensor, x_0: Tensor) -> Tensor:
    """eps (B, ...) in the order of `pair`, taken over the whole batch where several processes hold shares of it.

    Process r of w holds the samples r, r + w, … of the batch. All processes must call it together, with equal shares;
    each then gets the noise that a single process would give its samples.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return eps[pair(eps, x_0)]
    whole_eps, whole_x_0 = whole_batch(eps), whole_batch(x_0)
    order = pair(whole_eps, whole_x_0)
    return whole_eps[order[distributed.get_rank() :: distributed.get_world_size()]]


def whole_batch(share: Tensor) -> Tensor:
    """The batch (w B, ...) of which each of w processes holds a share (B, ...), in the order of a single process."""
    shares = [torch.empty_like(share) for _ in range(distributed.get_world_size())]
    distributed.all_gather(shares, share.detach().contiguous())
    return torch.stack(shares, 1).flatten(0, 1)  # (B, w, ...) -> (w B, ...)
