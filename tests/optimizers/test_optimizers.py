"""Muon against its definition and AdamW against torch's; learning-rate schedules at their corners."""

from __future__ import annotations

import pytest
import torch

from optimizers.muon import Muon, orthogonalise
from optimizers.schedules import WarmupDecay


@pytest.mark.parametrize("shape", [(2, 16, 40), (1, 40, 16), (3, 24, 24)])
def test_orthogonalise_brings_all_singular_values_near_one(shape):
    u, _, vh = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).double(), full_matrices=False
    )
    spread = torch.logspace(-1, 0, u.shape[-1], dtype=torch.float64)
    result = orthogonalise((u * spread @ vh).float()).double()
    values = torch.linalg.svdvals(result)
    assert 0.6 < values.min() and values.max() < 1.3  # from 0.1 ... 1
    assert torch.nn.functional.cosine_similarity(result.flatten(1), (u @ vh).flatten(1)).min() > 0.97


def test_vectors_are_updated_as_by_adamw():
    torch.manual_seed(0)
    start, target = torch.randn(7), torch.randn(7)
    results = []
    for make in (
        lambda p: Muon([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
        lambda p: torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1),
    ):
        p = torch.nn.Parameter(start.clone())
        optimizer = make(p)
        for _ in range(20):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
        results.append(p.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_update_of_a_matrix_has_the_promised_size_and_convolutions_are_matrices():
    p = torch.nn.Parameter(torch.zeros(16, 8, 3, 3))
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([p], lr=0.01).step()
    assert 0.8 < p.square().mean().sqrt() / (0.01 * 0.2) < 1.2


def test_state_survives_saving():
    def run(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
        optimizer = Muon(net.parameters(), lr=0.01)
        x = torch.randn(32, 8)
        for i in range(6):
            if interrupted and i == 3:
                state, optimizer = optimizer.state_dict(), Muon(net.parameters(), lr=0.01)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (net(x) - x.flip(1)).square().mean().backward()
            optimizer.step()
        return net[0].weight.detach()

    assert torch.equal(run(False), run(True))


def test_warmup_decay_corners():
    schedule = WarmupDecay(100, warmup_steps=10, decay_fraction=0.5)
    assert schedule(0) == pytest.approx(0.1) and schedule(9) == 1 and schedule(50) == 1
    assert schedule(75) == pytest.approx(0.5) and schedule(100) == 0
    assert WarmupDecay(100, 1, decay_fraction=0)(99) == 1
    with pytest.raises(ValueError, match="shape='square'"):
        WarmupDecay(10, shape="square")
