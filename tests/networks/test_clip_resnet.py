"""What test_clip.py's comparison with open_clip does not say of the residual tower."""

from __future__ import annotations

import pytest
import torch

from networks.clip_resnet import Bottleneck, ResNetTower


def test_a_new_block_is_its_shortcut() -> None:
    x = torch.rand(2, 16, 4, 4)
    assert torch.equal(Bottleneck(16, 4, 1).eval()(x), x)
    halved = Bottleneck(16, 8, 2).eval()
    assert halved(x).shape == (2, 32, 2, 2) and halved.downsample is not None


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size=40 is not a multiple of 32"):
        ResNetTower(8, 40)
    with pytest.raises(ValueError, match="heads=7 does not divide the width 256"):
        ResNetTower(8, 32, width=8, layers=(1, 1, 1, 1), heads=7)


def test_it_reads_the_whole_image() -> None:
    tower = ResNetTower(8, 64, width=8, layers=(1, 1, 1, 1), heads=4).eval()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    tower(image)[0, 0].backward()
    assert (image.grad.abs().amax(1)[0] > 0).float().mean() > 0.99
