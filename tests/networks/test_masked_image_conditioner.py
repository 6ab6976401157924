"""The known part of an image as channels: what is hidden is zero, nothing known is all zeros, guidance keeps it."""

from __future__ import annotations

import pytest
import torch

from networks.masked_image_conditioner import MaskedImageConditioner


def test_known_pixels_and_the_mask_are_channels_and_what_is_hidden_is_not_told() -> None:
    net, image = MaskedImageConditioner(4), torch.randn(2, 3, 4, 4)
    mask = torch.rand(2, 1, 4, 4) > 0.5
    told = net(net.from_batch({"known": image, "known_mask": mask, "seed": torch.arange(2)}))
    assert list(told) == ["channels"] and told["channels"].shape == (2, 4, 4, 4)
    assert torch.equal(told["channels"][:, :3], torch.where(mask, image, 0.0)) and torch.equal(told["channels"][:, 3:], mask.float())


def test_without_known_pixels_nothing_is_told_in_the_same_shape() -> None:
    net = MaskedImageConditioner(4, channels=1)
    told = net(net.from_batch({"seed": [3, 4, 5]}))["channels"]
    assert told.shape == (3, 2, 4, 4) and not told.any() and "nothing" not in net.state_dict()


def test_guidance_keeps_it_in_both_passes() -> None:
    net = MaskedImageConditioner(4)
    value = {"known": torch.randn(2, 3, 4, 4), "mask": torch.ones(2, 1, 4, 4, dtype=torch.bool)}
    assert not net.droppable and net.drop(value, torch.zeros(2, dtype=torch.bool)) is value and net.reads == "known"
    with pytest.raises(ValueError, match="nothing_prob=1.5 is outside"):
        MaskedImageConditioner(4, nothing_prob=1.5)
