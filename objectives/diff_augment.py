"""Differentiable augmentation: what a discriminator sees is changed at random, real and generated images alike."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

NUM_UNIFORM = 7  # random numbers an image: brightness, saturation, contrast, two of translation, two of cutout
TRANSLATION, CUTOUT = 1 / 8, 1 / 2  # shares of the image's side


def augment(image: Tensor, policy: Collection[str], u: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] after the policy's changes, in the order of POLICIES; no policy changes nothing.

    Gradients flow to the images. Brightness may take colours out of [-1, 1], as in the paper's code. Pixels that come
    from outside the image, and pixels that are cut out, are 0: mid-grey.

    Args:
        policy: words of POLICIES: color (brightness ±0.5, saturation times 0 to 2, contrast times 0.5 to 1.5),
            translation (by up to 1/8 of the side), cutout (a square of 1/2 of the side).
        u: (B, NUM_UNIFORM) uniform in [0, 1), which the caller draws; each change has its own columns, so that what
            it does to an image does not depend on the others.
    Raises: ValueError for an unknown word.
    Source: Zhao et al. 2020 (DiffAugment), section 3 and its code
    """
    check_policy(policy)
    assert u.shape == (len(image), NUM_UNIFORM), f"{tuple(u.shape)} random numbers for {len(image)} images"
    for name, change in POLICIES.items():
        if name in policy:
            image = change(image, u)
    return image


def check_policy(policy: Collection[str]) -> None:
    """Raises: ValueError for a word that is not in POLICIES, or a single string."""
    unknown = [policy] if isinstance(policy, str) else [name for name in policy if name not in POLICIES]
    if unknown:
        raise ValueError(f"model.augment={unknown}: give a list of {', '.join(POLICIES)}, or [] for none")


def color(image: Tensor, u: Tensor) -> Tensor:
    """Brightness, then saturation, then contrast; a grey image has no saturation to change."""
    brightness, saturation, contrast = u[:, :3, None, None, None].to(image.dtype).unbind(1)  # (B, 1, 1, 1) each
    image = image + (brightness - 0.5)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (2 * saturation)
    mean = image.mean((1, 2, 3), keepdim=True)
    return mean + (image - mean) * (contrast + 0.5)


def translation(image: Tensor, u: Tensor) -> Tensor:
    """Each image shifted by whole pixels, by -1/8 to 1/8 of its height and width."""
    height, width = image.shape[-2:]
    row, row_there = _shifted(height, u[:, 3])
    column, column_there = _shifted(width, u[:, 4])
    source = (row[:, :, None] * width + column[:, None, :]).flatten(1)  # (B, H * W)
    shifted = image.flatten(2).gather(2, source[:, None].expand(-1, image.shape[1], -1)).view_as(image)
    there = row_there[:, :, None] & column_there[:, None, :]
    return shifted * there[:, None].to(image.dtype)


def cutout(image: Tensor, u: Tensor) -> Tensor:
    """A square of half the side set to 0, its centre anywhere in the image: at the border less is lost."""
    height, width = image.shape[-2:]
    hidden = _window(height, u[:, 5])[:, :, None] & _window(width, u[:, 6])[:, None, :]  # (B, H, W)
    return image * (~hidden)[:, None].to(image.dtype)


POLICIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": color, "translation": translation, "cutout": cutout,
}  # fmt: skip


def _shifted(side: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """For each of `side` places of each image, (B, side): the place it is filled from, and whether that exists."""
    most = int(side * TRANSLATION + 0.5)
    shift = _whole(u, 2 * most + 1) - most
    source = torch.arange(side, device=u.device) - shift[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _window(side: int, u: Tensor) -> Tensor:
    """Which of `side` places of each image, (B, side) bool, the cut covers."""
    size = int(side * CUTOUT + 0.5)
    begin = _whole(u, side + 1 - size % 2) - size // 2
    place = torch.arange(side, device=u.device)
    return (place >= begin[:, None]) & (place < begin[:, None] + size)


def _whole(u: Tensor, count: int) -> Tensor:
    """Uniform (B,) in [0, 1) -> whole numbers of 0 to count - 1."""
    return (u * count).long().clamp(max=count - 1)
