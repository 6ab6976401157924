"""The residual pair: its initial weights, its sums, its blocks against written-out formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks.gan_residual import DownBlock, ResidualDiscriminator, ResidualGenerator, UpBlock


def glorot(weight: torch.Tensor) -> float:
    """Standard deviation of Glorot's uniform weights without gain."""
    places = math.prod(weight.shape[2:])
    return math.sqrt(2 / (places * (weight.shape[0] + weight.shape[1])))


def test_weights_start_as_glorots_with_a_gain_inside_the_blocks() -> None:
    nets = (ResidualGenerator(28, 3, 64), ResidualDiscriminator(28, 3, spectral=False, num_classes=10))
    for net in nets:
        for key, p in net.named_parameters():
            if p.ndim >= 2 and p.numel() > 1000:
                gain = math.sqrt(2) if ".conv_" in key else 1.0
                assert p.std().item() == pytest.approx(gain * glorot(p), rel=0.1), key
            elif key.endswith("bias"):
                assert not p.any(), key


def test_features_are_summed_over_places() -> None:
    net = ResidualDiscriminator(8, 1, dims=(8,), num_res_blocks=0, spectral=False).eval()
    small = torch.full((1, 1, 8, 8), 0.3)
    x = net.blocks[0](small)
    assert x.shape == (1, 8, 4, 4)
    expected = F.relu(x).sum((2, 3)) @ net.head.linear.weight[0] + net.head.linear.bias
    assert torch.allclose(net(small), expected, atol=1e-6)


@pytest.mark.parametrize("side", [8, 7, 1])
def test_a_block_downwards_is_its_formula(side: int) -> None:
    x = torch.randn(2, 4, side, side)
    half = lambda y: F.avg_pool2d(y, 2, ceil_mode=True)  # noqa: E731
    first, later, flat = DownBlock(4, 6, first=True), DownBlock(4, 6), DownBlock(4, 4, halve=False)
    expected = half(first.skip(x) + first.conv_2(F.relu(first.conv_1(x))))
    assert torch.allclose(first(x), expected, atol=1e-5) and first(x).shape[2:] == 2 * ((side + 1) // 2,)
    assert torch.allclose(later(x), half(later.skip(x) + later.conv_2(F.relu(later.conv_1(F.relu(x))))), atol=1e-5)
    assert torch.allclose(flat(x), x + flat.conv_2(F.relu(flat.conv_1(F.relu(x)))), atol=1e-6)


def test_a_block_upwards_is_its_formula_and_classes_set_its_normalisations() -> None:
    block, x = UpBlock(4, 6, "repetition", 3), torch.randn(5, 4, 3, 3)
    for table in (block.norm_1.scale, block.norm_2.shift):
        nn.init.normal_(table.weight)
    label = torch.tensor([0, 1, 2, 2, 0])
    h = F.interpolate(F.relu(block.norm_1(x, label)), scale_factor=2)
    h = block.conv_2(F.relu(block.norm_2(block.conv_1.conv(h), label)))
    expected = block.skip(F.interpolate(x, scale_factor=2)) + h  # the paper's order; a 1 x 1 convolution may go first
    assert torch.allclose(block(x, label), expected, atol=1e-5)
    assert not torch.allclose(block(x, label)[0], block(x, (label + 1) % 3)[0], atol=1e-3)


def test_all_of_the_discriminator_is_under_spectral_norm_and_none_without() -> None:
    for spectral in (True, False):
        net = ResidualDiscriminator(16, 1, dims=(8, 8), spectral=spectral, num_classes=3)
        layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.Embedding))]
        assert len(layers) == 2 * 3 + 2 * 2 + 2  # two halving blocks, two flat ones, the head
        assert all(nn.utils.parametrize.is_parametrized(layer, "weight") == spectral for layer in layers)
