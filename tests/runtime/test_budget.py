"""A model cannot take more memory than its weights give reason for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from runtime.budget import Budget, TooLarge, budget_of


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**6, 10**6),
        lambda: nn.Embedding(10**9, 10**3),
        lambda: torch.zeros(10**12),
        lambda: torch.full((10**6, 10**6), 1.0),
        lambda: torch.randn(10**12),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**12),
        lambda: torch.eye(10**6),
        lambda: [torch.zeros(10**4) for _ in range(10**9)],
        lambda: [torch.zeros(1) for _ in range(10**9)],
        lambda: torch.zeros(1000).repeat(10**4),
    ],
)
def test_what_is_too_large_is_refused_before_the_memory_is_taken(make, monkeypatch) -> None:
    monkeypatch.setattr("runtime.budget.SLACK", 10**4)
    with pytest.raises(TooLarge, match="larger than the weights"), Budget(10**6, calls=1000):
        make()


def test_a_model_fits_its_own_weights_and_comes_out_the_same() -> None:
    def make() -> nn.Module:
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Linear(64, 512), nn.MultiheadAttention(64, 4))
        return nn.utils.parametrizations.spectral_norm(body[2]) and body

    plain = make()
    with budget_of(plain.state_dict()):
        bounded = make()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), bounded.state_dict().values()))
