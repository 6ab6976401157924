"""What a diffusion stage diffuses: pixels, latents of a frozen autoencoder, or embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import Batch


class Space:
    """Goes from a batch to the tensors that are diffused, and from drawn ones to images.

    Attributes:
        shape: of one sample.
        bounded: whether samples lie in [-1, 1], so that estimates may be thresholded and draws clamped.
        image_size: side of the images that `decode` gives; None where it gives no images.
    """

    shape: tuple[int, ...]
    bounded = False
    image_size: int | None = None

    def encode(self, batch: Batch) -> Tensor:
        """(B, *shape) of a training batch."""
        raise NotImplementedError

    def decode(self, x_0: Tensor) -> Tensor:
        """What a draw (B, *shape) shows: images (B, C, H, W) in [-1, 1] where there are any."""
        raise NotImplementedError


class Pixels(Space):
    """Images themselves, at a size of their own: larger training images are averaged down."""

    bounded = True

    def __init__(self, image_size: int, channels: int = 3) -> None:
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"image_size={image_size}: give a whole number of at least 1")
        self.image_size, self.shape = image_size, (channels, image_size, image_size)

    def encode(self, batch: Batch) -> Tensor:
        return reduce(batch["image"], self.image_size)

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)


class Latents(Space):
    """Latents of a frozen autoencoder, shifted and scaled to mean 0 and standard deviation 1 over training images.

    A diffusion model of latents with the autoencoder's decoder is a latent diffusion model. The autoencoder is no part
    of the module tree, so its weights are never in a checkpoint.

    Args:
        autoencoder: an image model with `encode_latents(image) -> (B, d)` and `generate(z) -> images`, frozen.
        latent_dim: d.
        image_size: of the images that it decodes to.
        mean, std: of the latents; numbers or lists of d. Measured by `measure` where they are None.
    Source: Rombach et al. 2022 (latent diffusion), section 3 and appendix G
    """

    def __init__(
        self,
        autoencoder: Any,
        latent_dim: int,
        image_size: int,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        self.autoencoder, self.shape, self.image_size = autoencoder, (latent_dim,), image_size
        self.mean, self.std = torch.as_tensor(mean), torch.as_tensor(std)
        autoencoder.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        z = self._on(batch["image"].device).encode_latents(batch["image"])
        return (z - self.mean.to(z)) / self.std.to(z)

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        z = x_0 * self.std.to(x_0) + self.mean.to(x_0)
        return self._on(x_0.device).generate(z)

    def _on(self, device: torch.device) -> Any:
        """The autoencoder, moved to a device with the first batch that is there."""
        if self.autoencoder.device != device:
            self.autoencoder.to(device)
        return self.autoencoder


class Embeddings(Space):
    """Vectors of unit length, scaled so that each number has about the spread of pixels; never clamped.

    Args:
        embed: gives the embeddings (B, dim) of a batch; None reads `image_embeds`.
        dim: width of an embedding.
        scale: factor on the unit vector; None is 0.54 sqrt(dim), DALL-E 2's 17.2 for 1024 numbers.
    Source: Ramesh et al. 2022 (DALL-E 2), appendix C
    """

    def __init__(self, dim: int, scale: float | None = None, embed: Callable[[Batch], Tensor] | None = None) -> None:
        self.shape, self.scale, self.embed = (dim,), 0.54 * dim**0.5 if scale is None else scale, embed

    def encode(self, batch: Batch) -> Tensor:
        embeds = batch["image_embeds"] if self.embed is None else self.embed(batch)
        return F.normalize(embeds, dim=-1) * self.scale

    def decode(self, x_0: Tensor) -> Tensor:
        """Unit vectors (B, dim)."""
        return F.normalize(x_0, dim=-1)


def reduce(image: Tensor, size: int) -> Tensor:
    """Shrink (B, C, S, S) by averaging whole blocks of pixels; S must be a multiple of size."""
    if image.shape[-1] == size:
        return image
    if image.shape[-1] % size:
        raise ValueError(f"data of {image.shape[-1]} pixels cannot be reduced to a stage's {size}: not a multiple")
    return F.avg_pool2d(image, image.shape[-1] // size)


def enlarge(image: Tensor, size: int) -> Tensor:
    """Grow (B, C, s, s) to size by bilinear interpolation."""
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)
