"""The classifier's net: shapes at any size, features that its scores are linear in, and no mixing of images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from networks.classifier import ResidualBlock, ConvClassifier


def net(**arguments) -> ConvClassifier:
    torch.manual_seed(0)
    made = ConvClassifier(**{"channels": 1, "num_classes": 10, "dims": (8, 16, 24), **arguments}).eval()
    for block in made.blocks:  # every block starts as the identity
        torch.nn.init.normal_(block.conv_2.weight, std=0.1)
    return made


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (15, 1), (64, 3)])
def test_shapes_at_any_size(size: int, channels: int) -> None:
    image = torch.randn(2, channels, size, size)
    made = net(channels=channels)
    assert made.feature_dim == 24 and made.features(image).shape == (2, 24) and made(image).shape == (2, 10)


def test_scores_are_linear_in_the_features() -> None:
    made, image = net(), torch.randn(5, 1, 28, 28)
    assert torch.allclose(made(image), made.features(image) @ made.head.weight.T + made.head.bias, atol=1e-6)


def test_an_image_is_judged_alone() -> None:
    made, image = net(), torch.randn(6, 1, 28, 28)
    assert torch.allclose(made.train().features(image)[2:3], made.eval().features(image[2:3]), atol=1e-5)


def test_every_part_is_used() -> None:
    made = net()
    made(torch.randn(4, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_data_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs data with classes: data=fashion_mnist"):
        net(num_classes=None)


def test_a_block_is_its_formula_and_starts_as_its_skip() -> None:
    x = torch.randn(2, 8, 5, 5)
    for dim_out in (8, 16):
        block = ResidualBlock(8, dim_out)
        skip = x if dim_out == 8 else F.conv2d(x, block.skip.weight, block.skip.bias)
        assert torch.allclose(block(x), skip + block.conv_2.bias[:, None, None], atol=1e-6)
        torch.nn.init.normal_(block.conv_2.weight)
        h = F.group_norm(x, 8, block.norm_1.weight, block.norm_1.bias)
        h = F.conv2d(h * h.sigmoid(), block.conv_1.weight, block.conv_1.bias, padding=1)
        h = F.group_norm(h, 8, block.norm_2.weight, block.norm_2.bias)
        h = F.conv2d(h * h.sigmoid(), block.conv_2.weight, block.conv_2.bias, padding=1)
        assert torch.allclose(block(x), skip + h, atol=1e-4)


def test_features_are_means_of_normalised_maps_at_halved_resolutions() -> None:
    made, image = net(), torch.randn(3, 1, 15, 15)
    x, sides = made.stem(image), []
    for i, block in enumerate(made.blocks):
        x = block(F.avg_pool2d(x, 2, ceil_mode=True) if i else x)
        sides.append(x.shape[-1])
    assert sides == [8, 4, 2]
    h = made.norm(x)
    assert torch.allclose(made.features(image), (h * h.sigmoid()).mean((2, 3)), atol=1e-6)


def test_features_are_dropped_in_training_alone() -> None:
    made, image = net(dropout=0.5), torch.randn(4, 1, 28, 28)
    assert torch.equal(made(image), made(image))
    made.train()
    torch.manual_seed(0)
    dropped = made(image)
    assert not torch.allclose(dropped, made.eval()(image), atol=1e-3)
    torch.manual_seed(0)
    made.train()
    features = F.dropout(made.features(image), 0.5)
    assert torch.allclose(dropped, made.head(features), atol=1e-6)
