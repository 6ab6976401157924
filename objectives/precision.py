"""The precision in which losses and likelihoods are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """x in float64 if it was, else in float32: half precision leaves a loss two or three digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
