"""What a diffusion stage diffuses: pixels, latents of a frozen autoencoder, or embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import Batch, EncodesLatents


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
    identity: str | None = None  # of a frozen model that is no part of the checkpoint

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
    """Latents of a frozen autoencoder, shifted and scaled to about mean 0 and standard deviation 1.

    A diffusion model of latents with the autoencoder's decoder is a latent diffusion model. The autoencoder is loaded
    with the first batch and is no part of the module tree: a checkpoint holds its checksum, not its weights.

    Args:
        ckpt: a run, checkpoint or name in zoo/ of a model that `EncodesLatents`.
        load: ckpt -> (module, its configuration, facts with a `sha256`).
        latent_dim: numbers per latent.
        image_size: of the images that it decodes to.
    Source: Rombach et al. 2022 (latent diffusion), section 3 and appendix G
    """

    def __init__(
        self, ckpt: str | None, load: Callable[[str], tuple[Any, Any, dict[str, Any]]], latent_dim: int, image_size: int
    ) -> None:
        if ckpt is None:
            raise ValueError(
                "latents need a trained autoencoder: give space.ckpt=RUN, a run of model=vae or model=autoencoder"
            )
        self.ckpt, self.load, self.shape, self.image_size = ckpt, load, (latent_dim,), image_size
        self._loaded: tuple[Any, str, Tensor, Tensor] | None = None

    @property
    def identity(self) -> str:
        """Checksum of the autoencoder."""
        return self._frozen()[1]

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        model, _, mean, std = self._frozen(batch["image"].device)
        return (model.encode_latents(batch["image"]) - mean) / std

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        model, _, mean, std = self._frozen(x_0.device)
        return model.generate(x_0 * std + mean)

    def _frozen(self, device: torch.device | str = "cpu") -> tuple[Any, str, Tensor, Tensor]:
        """The autoencoder, its checksum, and mean and standard deviation of its latents, on a device."""
        if self._loaded is None:
            try:
                model, _, facts = self.load(self.ckpt)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"the autoencoder of these latents is not there: {error}") from None
            if not isinstance(model, EncodesLatents):
                raise ValueError(f"space.ckpt={self.ckpt}: {type(model).__name__} has no latents to diffuse; a VAE or an autoencoder has")
            if (found := model.latent_dim) != self.shape[0]:
                raise ValueError(f"space.latent_dim={self.shape[0]}: the model in {self.ckpt} has latents of {found} numbers")
            self._loaded = (model.eval().requires_grad_(False), facts["sha256"], *model.latent_moments())
        model, sha256, mean, std = self._loaded
        if mean.device != torch.device(device):
            self._loaded = model.to(device), sha256, mean.to(device), std.to(device)
        return self._loaded


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
