"""How much of an image is a pattern that alternates from pixel to pixel?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_u8

KINDS = ("fake", "real", "reconstruction")


def alternating(image_u8: Tensor) -> Tensor:
    """Energy of uint8 images (B, C, H, W) at the highest frequency of rows and columns, and their variance: (B, 2).

    The energy is that of all Fourier coefficients with vertical frequency H/2 or horizontal frequency W/2, in squared
    levels: a checkerboard or stripes of plus and minus `a` levels have a². An odd last row or column is left out.
    """
    height, width = (side - side % 2 for side in image_u8.shape[-2:])
    image = image_u8[..., :height, :width].double()
    # sum_i (-1)^i x_i / N is the coefficient at N/2; Parseval's theorem takes the sum over the other axis.
    signs_y, signs_x = (1 - 2 * (torch.arange(n, device=image.device) % 2).double() for n in (height, width))
    by_column = (image * signs_y[:, None]).mean(-2)  # (B, C, W)
    by_row = (image * signs_x).mean(-1)  # (B, C, H)
    both = (by_column * signs_x).mean(-1)  # (B, C), counted in each of the two
    energy = by_column.square().mean(-1) + by_row.square().mean(-1) - both.square()
    variance = image.var((-2, -1), correction=0)
    return torch.stack([energy.mean(1), variance.mean(1)], 1)


class Checkerboard(Evaluator):
    """Share of the generated images' variance at the highest frequency of rows and columns, `checkerboard`.

    A stride of 2 in a transposed convolution treats even and odd pixels differently, and what differs between them lies
    at these frequencies: 1 is a checkerboard and nothing else, white noise has (H + W - 1) / (H W - 1)
    (`checkerboard_noise`), real images little (`checkerboard_real`). More than real images have is an artefact, far
    less is blur; between models that blur alike, more is worse. `checkerboard_reconstruction` is that of the model's
    decoding of real images, where it has one. Shares are sums over images of energy by sums of variance, since the
    share of one flat image says nothing.

    Source: Odena et al. 2016 (the artefact); Durall et al. 2020, section 3 (spectra of upsampled images)
    """

    name = "checkerboard"
    headlines = ("checkerboard",)
    unit = "%"

    def __init__(self) -> None:
        self._noise = 0.0

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        images = {"fake": batch.fake, "real": batch.real, "reconstruction": batch.extra.get("reconstruction")}
        given = {kind: image for kind, image in images.items() if image is not None}
        check_u8(**given)
        height, width = (side - side % 2 for side in batch.fake.shape[-2:])
        if min(height, width) == 0:
            raise NotComputed("checkerboard needs images of at least 2 x 2 pixels")
        self._noise = (height + width - 1) / (height * width - 1)
        return {kind: alternating(image) for kind, image in given.items()}

    def compute(self) -> dict[str, float]:
        if not len(self.rows):
            raise NotComputed("checkerboard has seen no images")
        fake = self.rows.column("fake")
        if not fake[:, 1].any():
            raise NotComputed("checkerboard: every generated image is of one colour")
        value, n = share(fake), len(fake)
        values = {"checkerboard": value, "checkerboard_n": n, "checkerboard_noise": self._noise}
        if n > 1:  # of a ratio of means, to first order
            half = 1.96 * float(((fake[:, 0] - value * fake[:, 1]) / fake[:, 1].mean()).std()) / n**0.5
            values |= {"checkerboard_low": value - half, "checkerboard_high": value + half}
        controls = (kind for kind in KINDS[1:] if kind in self.rows.names)
        return values | {f"checkerboard_{kind}": share(self.rows.column(kind)) for kind in controls}


def share(energy_and_variance: Tensor) -> float:
    """Sum of energies by sum of variances of (N, 2); 0 where there is no variance."""
    energy, variance = energy_and_variance.sum(0).tolist()
    return energy / variance if variance else 0.0
