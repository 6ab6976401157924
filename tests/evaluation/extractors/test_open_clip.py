"""What a CLIP tower is shown: the whole image, in its size, clamped, normalised per channel."""

from __future__ import annotations

import torch

from evaluation.extractors.open_clip import resized

MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.5)


def test_an_image_of_the_right_size_is_only_normalised() -> None:
    image = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = resized(image, 8, MEAN, STD)
    back = found * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    torch.testing.assert_close(back * 255, image.float(), rtol=0, atol=1e-3)


def test_enlarging_stays_between_black_and_white() -> None:
    edge = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    edge[..., 2:] = 255  # bicubic would overshoot here
    found = resized(edge, 16, (0.0,) * 3, (1.0,) * 3)
    assert found.shape == (1, 3, 16, 16) and found.min() == 0 and found.max() == 1
