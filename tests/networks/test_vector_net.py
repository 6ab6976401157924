"""The net over vectors: what it depends on, and that it learns."""

from __future__ import annotations

import pytest
import torch

from networks.vector_net import VectorNet


def woken(**options) -> VectorNet:
    """A net whose zeroed layers are not zero, so that everything matters."""
    torch.manual_seed(0)
    net = VectorNet(size=5, dim=16, depth=2, **options)
    for p in net.parameters():
        if not p.any():
            p.data = torch.randn(p.shape) * 0.1
    return net


def test_it_starts_at_zero_and_keeps_the_shape() -> None:
    net = VectorNet(size=5, dim=16, depth=2)
    assert torch.equal(net(torch.randn(3, 5), torch.zeros(3)), torch.zeros(3, 5))
    assert VectorNet(size=5, dim=16, out_size=10)(torch.randn(3, 5), torch.zeros(3)).shape == (3, 10)


def test_the_answer_depends_on_sample_level_and_condition_of_its_own_row() -> None:
    net = woken(emb_dim=8)
    x, level, vector = torch.randn(2, 5), torch.tensor([-3.0, 4.0]), torch.randn(2, 8)
    out = net(x, level, vector=vector)
    torch.testing.assert_close(net(x[1:], level[1:], vector=vector[1:]), out[1:])
    for changed in ((x + 1, level, vector), (x, level + 2, vector), (x, level, vector + 1)):
        assert (net(changed[0], changed[1], vector=changed[2]) - out).abs().min(1).values.max() > 1e-4
    torch.testing.assert_close(net(x, level), net(x, level, vector=torch.zeros(2, 8)))


def test_a_block_is_a_gated_residual() -> None:
    block, x, emb = woken().blocks[0], torch.randn(4, 16), torch.randn(4, 16)
    scale, shift, gate = block.modulation(emb).chunk(3, dim=-1)
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x, emb), x + (1 + gate) * block.ff(normed * (1 + scale) + shift))


@pytest.mark.parametrize("level", [-2.0, 2.0])
def test_it_learns_another_answer_for_each_level(level: float) -> None:
    torch.manual_seed(0)
    net = VectorNet(size=2, dim=32, depth=2)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        x, levels = torch.randn(64, 2), torch.tensor([-2.0, 2.0]).repeat(32)
        loss = (net(x, levels) - levels[:, None].sign() * x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(64, 2)
    assert (net(x, torch.full((64,), level)) - (1 if level > 0 else -1) * x).square().mean() < 0.1
