"""R3GAN's pair: no normalisation, blocks that start as the identity, variances that do not grow with depth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks.gan_r3 import Bottleneck, R3Discriminator, R3Generator, scaled
from networks.resample import mean_of_4


def test_nothing_is_normalised() -> None:
    for net in (R3Generator(28, 1, 64, num_classes=10), R3Discriminator(28, 1, num_classes=10)):
        kinds = {type(m).__name__ for m in net.modules() if not list(m.children())}
        assert kinds <= {"Conv2d", "Linear", "Embedding", "Identity"} and not list(net.buffers())


@pytest.mark.parametrize(("size", "stages"), [(28, 4), (32, 4), (64, 5)])
def test_the_basis_is_4_x_4(size: int, stages: int) -> None:
    dims = (16,) * stages
    generator, discriminator = R3Generator(size, 1, 8, dims=dims), R3Discriminator(size, 1, dims=dims)
    assert generator.basis.shape == (16, 4, 4) and generator.sides[-1] == size
    assert discriminator.basis.weight.shape == (16, 1, 4, 4) and discriminator.basis.groups == 16


def test_a_bottleneck_starts_as_the_identity_and_is_its_formula() -> None:
    block, x = Bottleneck(16, 8, num_blocks=4), torch.randn(2, 16, 5, 5)
    assert torch.equal(block(x), x) and block.grouped.groups == 2 * 16 // 8
    nn.init.normal_(block.project.weight)
    h = F.leaky_relu(block.grouped(F.leaky_relu(block.expand(x), 0.2)), 0.2)
    assert torch.allclose(block(x), x + block.project(h), atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 4])
def test_inner_weights_shrink_with_the_number_of_blocks(blocks: int) -> None:
    net = R3Discriminator(28, 1, dims=(64, 64, 64, 64), num_res_blocks=blocks)
    gain = math.sqrt(2 / 1.04) * (4 * blocks) ** (-1 / 4)
    for stage in net.stages:
        assert len(stage) == blocks
        for block in stage:
            for conv in (block.expand, block.grouped):
                assert conv.weight.std().item() == pytest.approx(gain / math.sqrt(conv.weight[0].numel()), rel=0.1)
            assert not block.project.weight.any() and block.project.bias is None


def test_depth_changes_nothing_at_the_start() -> None:
    """The first score is linear in the image and the first image is one map per channel, whatever the depth."""
    a, b = torch.randn(2, 4, 1, 28, 28)
    net = R3Discriminator(28, 1, num_res_blocks=3)
    assert torch.allclose(net((a + b) / 2), (net(a) + net(b)) / 2, atol=1e-5)
    z, spread = torch.randn(256, 64), []
    for blocks in (1, 4):
        torch.manual_seed(0)
        spread.append(R3Generator(28, 1, 64, num_res_blocks=blocks)(z).atanh().std().item())
    assert all(0.2 < s < 2 for s in spread)  # of order 1: neither vanished nor exploded


def test_a_class_is_concatenated_in_one_net_and_multiplied_in_the_other() -> None:
    generator, discriminator = R3Generator(28, 1, 8, num_classes=3), R3Discriminator(28, 1, num_classes=3)
    assert generator.stem.in_features == 16 and generator.embedding.weight.shape == (3, 8)
    assert discriminator.head.out_features == 64 and discriminator.embedding.weight.shape == (3, 64)
    many = R3Discriminator(28, 1, num_classes=100).embedding.weight
    assert many.std().item() == pytest.approx(0.1, rel=0.1)  # a linear layer of 100 one-hot classes
    image, label = torch.randn(3, 1, 28, 28), torch.arange(3)
    with torch.no_grad():
        score = discriminator(image, label)
        discriminator.embedding.weight[1].mul_(-2)
    assert torch.allclose(discriminator(image, label), score * torch.tensor([1.0, -2.0, 1.0]), atol=1e-5)


def test_halving_is_bilinear_and_rounds_up() -> None:
    x = torch.randn(2, 3, 8, 8)
    expected = F.interpolate(x, scale_factor=0.5, mode="bilinear")
    assert torch.allclose(mean_of_4(x), expected, atol=1e-6)
    assert mean_of_4(torch.ones(1, 1, 7, 7)).tolist() == torch.ones(1, 1, 4, 4).tolist()


def awake(net: nn.Module) -> nn.Module:
    """Blocks that start as the identity do something."""
    for name, weight in net.named_parameters():
        if name.endswith("project.weight"):
            nn.init.normal_(weight, std=0.1)
    return net


def test_the_pair_is_its_formula() -> None:
    generator, z = awake(R3Generator(8, 1, 6, dims=(16, 16, 8), group_width=8)), torch.randn(3, 6)
    x = (z @ generator.stem.weight.T)[:, :, None, None] * generator.basis
    x = generator.stages[0](x)
    for resize, stage in list(zip(generator.resize, generator.stages))[1:]:
        x = stage(F.interpolate(resize(x), scale_factor=2, mode="bilinear", align_corners=False))
    assert torch.allclose(generator(z), generator.to_image(x).tanh(), atol=1e-5)
    net, image = awake(R3Discriminator(8, 1, dims=(8, 16, 16), group_width=8)), torch.randn(3, 1, 8, 8)
    x = net.stages[0](net.from_image(image))
    for resize, stage in zip(net.resize, list(net.stages)[1:]):
        x = stage(resize(F.interpolate(x, scale_factor=0.5, mode="bilinear")))
    expected = ((x * net.basis.weight[:, 0]).sum((2, 3)) @ net.head.weight.T)[:, 0]
    assert torch.allclose(net(image), expected, atol=1e-5)


@pytest.mark.parametrize(("layer", "fan_in"), [(nn.Linear(400, 20), 400), (nn.Conv2d(50, 8, 3), 450)])
def test_maps_keep_their_variance_times_the_gain(layer: nn.Module, fan_in: int) -> None:
    scaled(layer, 3.0)
    assert layer.weight.std().item() == pytest.approx(3 / math.sqrt(fan_in), rel=0.05) and not layer.bias.any()
