"""Averages of weights with a power-function profile, whose length can be chosen after training.

After t steps a weight of step s counts as s^gamma; its length is told as sigma_rel, the standard deviation of the profile
divided by t. Several are tracked and stored, and any other length is a weighted sum of what was stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def beta(step: int, gamma: float) -> float:
    """Weight of the old average at optimiser step 1, 2, ...: average = beta average + (1 - beta) weights; 0 at first.

    Source: Karras et al. 2024 (EDM2), appendix C: (1 - 1 / t)^(gamma + 1)
    """
    if step < 1:
        raise ValueError(f"step={step} of a power-function average: steps count from 1")
    return (1 - 1 / step) ** (gamma + 1)


def sigma_rel_of(gamma: float) -> float:
    """Relative standard deviation sqrt((gamma + 1) / ((gamma + 2)² (gamma + 3))) of the profile.

    Source: Karras et al. 2024 (EDM2), appendix C
    """
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def gamma_of(sigma_rel: float) -> float:
    """The exponent of a length: 6.94 for 0.10 and 16.97 for 0.05.

    Raises: ValueError unless 0 < sigma_rel < 12^-1/2 = 0.2887, that of gamma = 0.
    Source: Karras et al. 2024 (EDM2), appendix C
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"sigma_rel={sigma_rel}: give a length between 0 and {12**-0.5:.4f}; 0.05 and 0.10 are usual")
    low, high = 0.0, 4 / sigma_rel  # sigma_rel falls with gamma, about as 1 / gamma
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_rel_of(middle) > sigma_rel else (low, middle)
    return (low + high) / 2


def inner_product(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Integral of the product of two profiles that end at t_a and t_b; tensors that broadcast, float64.

    A profile is (gamma + 1) s^gamma / t^(gamma + 1) for s in [0, t].
    Source: Karras et al. 2024 (EDM2), appendix C
    """
    shorter = torch.minimum(t_a, t_b)
    rise = gamma_a * torch.log(shorter / t_a) + gamma_b * torch.log(shorter / t_b) - torch.log(torch.maximum(t_a, t_b))
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * rise.exp()


def solve(steps: Sequence[int], gammas: Sequence[float], step: int, gamma: float) -> Tensor:
    """Weights (N,) float64 of N stored averages, the i-th of exponent gammas[i] up to steps[i], for another average.

    They are the least-squares fit of its profile; they may be negative, and sum to about 1.
    Raises: ValueError for no averages, or where all of them were stored before `step`.
    Source: Karras et al. 2024 (EDM2), appendix C
    """
    if not steps or len(steps) != len(gammas) or max(steps) < step:
        raise ValueError(f"{len(steps)} stored averages up to step {max(steps, default=0)}: none reaches step {step}")
    t, g = torch.tensor(steps, dtype=torch.float64), torch.tensor(gammas, dtype=torch.float64)
    target = torch.tensor([step, gamma], dtype=torch.float64)
    gram = inner_product(t[:, None], g[:, None], t, g)
    right = inner_product(t, g, *target)
    return torch.linalg.lstsq(gram, right[:, None], driver="gelsd").solution[:, 0]
