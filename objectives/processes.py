"""Statistics of a batch that several processes share."""

from __future__ import annotations

from typing import Any

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


def gather_over_processes(x: Tensor) -> Tensor:
    """Rows of all processes (W * B, ...) in their order, with gradient; x itself where there is one process.

    All processes must call it together, with equal shapes. If each of them computes the same loss from the result and
    their gradients are averaged, as data-parallel training does, the average is that of the loss in one process.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return x
    return _Gather.apply(x)


class _Gather(torch.autograd.Function):
    """All processes' rows; backwards, the sum over processes of what each wants of this one's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
