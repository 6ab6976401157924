"""Shrinking and growing feature maps: the lecture's ways of inverting a convolution, one word each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UPSAMPLE_KINDS = ("repetition", "bilinear", "transposed", "pixel_shuffle")


class Upsample(nn.Module):
    """Double height and width.

    ``repetition`` and ``bilinear`` enlarge first and convolve after (Odena et al. 2016's cure for checkerboards);
    ``transposed`` is the learned inverse of a strided convolution; ``pixel_shuffle`` computes four channels for each
    output channel and interleaves them, initialised so that it starts as repetition (Aitken et al. 2017, ICNR).

    Args:
        dim_in: channels of the input, (B, dim_in, H, W).
        dim_out: channels of the output, (B, dim_out, 2H, 2W).
        kind: one of ``UPSAMPLE_KINDS``.

    Raises:
        ValueError: for another ``kind``.

    Source: Dumoulin & Visin 2016; Shi et al. 2016 (pixel shuffle).
    """

    def __init__(self, dim_in: int, dim_out: int, kind: str = "repetition") -> None:
        super().__init__()
        if kind not in UPSAMPLE_KINDS:
            raise ValueError(f"upsample={kind!r} is not known: choose one of {', '.join(UPSAMPLE_KINDS)}")
        self.kind = kind
        if kind == "transposed":
            self.conv: nn.Module = nn.ConvTranspose2d(dim_in, dim_out, 4, stride=2, padding=1)
        elif kind == "pixel_shuffle":
            self.conv = nn.Conv2d(dim_in, dim_out * 4, 3, padding=1)
            equal_sub_pixels(self.conv)
        else:
            self.conv = nn.Conv2d(dim_in, dim_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "repetition":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        elif self.kind == "bilinear":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.conv(x)
        return F.pixel_shuffle(x, 2) if self.kind == "pixel_shuffle" else x


@torch.no_grad()
def equal_sub_pixels(conv: nn.Module) -> None:
    """ICNR: the four sub-pixels of a pixel shuffle start equal, so no checkerboard at the first step."""
    for parameter in conv.parameters():
        parameter.copy_(parameter[::4].repeat_interleave(4, 0))


def downsample(dim_in: int, dim_out: int) -> nn.Module:
    """Halve height and width by a strided convolution, (B, dim_in, 2H, 2W) -> (B, dim_out, H, W)."""
    return nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1)


def mean_of_4(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H/2, W/2), rounded up, by means of 2 x 2 places: what bilinear halving is."""
    return F.avg_pool2d(x, 2, ceil_mode=True)
