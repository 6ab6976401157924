"""Statistics of a batch that several processes share."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


@torch.no_grad()
def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of x over the processes that train together, without gradient; a copy of x where there is one process.

    All processes must call it together, and have equal shares of the batch if x is a mean over images.
    """
    x = x.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
        x /= distributed.get_world_size()
    return x
