"""The classifier's net: shapes at any size, features that its scores are linear in, and no mixing of images."""

from __future__ import annotations

import pytest
import torch

from networks.classifier import ConvClassifier


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
