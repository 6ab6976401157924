from __future__ import annotations

import pytest
import torch

from diffusion.optimal_transport import pair


def draw(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cost(eps, x_0):
    return (eps - x_0).square().sum().item()


def test_cost_is_not_above_that_of_any_other_order():
    eps, x_0 = draw(32, 3, 4, 4), 2 + 0.5 * draw(32, 3, 4, 4, seed=1)
    order = pair(eps, x_0)
    assert sorted(order.tolist()) == list(range(32))
    best = cost(eps[order], x_0)
    assert best < cost(eps, x_0)
    for seed in range(50):
        assert best <= cost(eps[torch.randperm(32, generator=torch.Generator().manual_seed(seed))], x_0)
    for i in range(31):  # nor can two neighbours be exchanged
        swapped = order.clone()
        swapped[[i, i + 1]] = order[[i + 1, i]]
        assert best <= cost(eps[swapped], x_0) + 1e-9


def test_in_one_dimension_it_is_sorting():
    eps, x_0 = draw(20, 1), draw(20, 1, seed=1) ** 3
    paired = eps[pair(eps, x_0)]
    assert torch.equal(paired[x_0[:, 0].argsort()], eps.sort(0).values)


def test_noise_that_is_already_paired_stays():
    x_0 = draw(9, 2)
    assert pair(x_0, x_0).tolist() == list(range(9))


def test_paths_become_straighter():
    """The variance of eps - x_0 given where the path is at t = 1/2 (what bends the flow) falls by more than half.

    Estimated from the 2 nearest neighbours of each mid-point, on two far clusters.
    """
    n = 256
    x_0 = torch.sign(draw(n, 1, seed=1)) * torch.tensor([[3.0, 0.0]], dtype=torch.float64) + 0.3 * draw(n, 2, seed=2)
    eps = draw(n, 2)

    def bend(eps):
        middle, flow = (x_0 + eps) / 2, eps - x_0
        nearest = torch.cdist(middle, middle).fill_diagonal_(torch.inf).topk(2, largest=False).indices
        return (flow[nearest] - flow[:, None]).square().sum(-1).mean().item()

    assert bend(eps[pair(eps, x_0)]) < 0.5 * bend(eps)


def test_different_shapes():
    with pytest.raises(ValueError, match="equal shapes"):
        pair(draw(3, 2), draw(4, 2))
