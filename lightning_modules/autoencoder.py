"""The autoencoder: an image through a narrow latent and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contracts import Request
from rng.keyed import keyed_randn
from lightning_modules.base import GenerativeModule
from networks.autoencoder import check_latent_dim
from objectives.processes import mean_over_processes

PEAK_SQUARED = 4.0  # the range of pixels in [-1, 1], squared
MEMORY_BATCHES = 100  # about as many recent batches enter the latents' moments


class Autoencoder(GenerativeModule):
    """Minimises the squared error of decode(encode(image)).

    An autoencoder is not a model of P(image): its training does not shape the distribution of the latents. For sampling
    it keeps the mean and covariance of the latents of recent training images, in buffers of the checkpoint. ``sample``
    decodes draws from the normal distribution with these moments. The latents are not normal, so the samples are poor;
    the variational autoencoder solves this.

    Args:
        encoder: partial of a net of ``networks.autoencoder``; called with image_size, channels and out_dim.
        decoder: likewise; called with image_size, out_channels and latent_dim.
        image_size, channels: of the data.
        latent_dim: numbers per image.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.
    Raises: ValueError for a latent_dim below 1.
    Source: Hinton and Salakhutdinov 2006; Ghosh et al. 2020, section 4 (a density fitted to latents after training)
    """

    def __init__(
        self,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        image_size: int,
        channels: int,
        latent_dim: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_latent_dim(latent_dim)
        self.encoder = encoder(image_size=image_size, channels=channels, out_dim=latent_dim)
        self.decoder = decoder(image_size=image_size, out_channels=channels, latent_dim=latent_dim)
        self.image_size, self.channels, self.latent_dim = image_size, channels, latent_dim
        self.register_buffer("latent_batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_cov", torch.zeros(latent_dim, latent_dim))

    def encode(self, image: Tensor) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] -> latents (B, latent_dim).

        Raises: ValueError for images of another size than the model was built for.
        """
        built = (self.channels, self.image_size, self.image_size)
        if tuple(image.shape[1:]) != built:
            raise ValueError(f"the autoencoder was built for images {built}, got {tuple(image.shape[1:])}")
        return self.encoder(image)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, latent_dim) -> images (B, C, S, S), about [-1, 1] but not clamped."""
        return self.decoder(z)

    @torch.no_grad()
    def encode_latents(self, image: Tensor) -> Tensor:
        """Latents (B, latent_dim) in full precision."""
        return self.encode(image).float()

    def latent_moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (latent_dim,) of the latents of the last training batches."""
        return self.latent_mean.clone(), self.latent_cov.diagonal().clamp(min=1e-12).sqrt()

    @torch.no_grad()
    def generate(self, z: Tensor, label: None = None) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] of latents (B, latent_dim)."""
        return self.decode(z.to(self.latent_mean)).float().clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, batch: dict[str, Any]) -> Tensor:
        """A batch's images through the latent and back: float32 (B, C, S, S) in [-1, 1]."""
        return self.decode(self.encode(batch["image"])).float().clamp(-1, 1)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``loss``: mean squared error of pixel values in [-1, 1]; ``psnr_db``: mean of the images' own."""
        z = self.encode(batch["image"])
        if self.training:
            self._follow(z.detach())
        error = (self.decode(z).float() - batch["image"]).square().flatten(1).mean(1)  # (B,)
        return {"loss": error.mean(), "psnr_db": 10 * torch.log10(PEAK_SQUARED / error.detach()).mean()}

    @torch.no_grad()
    def sample(self, request: Request, *, seeds: Sequence[int], **others: Any) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] of latents drawn from the normal distribution of training latents.

        Raises: ValueError before any training, or for an option: there is none.
        """
        if others:
            raise ValueError(f"an autoencoder draws in one step: it has no {', '.join(others)}")
        if (reason := self.sampling_refusal()) is not None:
            raise ValueError(reason)
        eps = keyed_randn(seeds, (self.latent_dim,), "latent", dtype=torch.float64)  # (n, d)
        z = self.latent_mean.double().cpu() + eps @ root(self.latent_cov.double().cpu()).T
        return self.decode(z.to(self.latent_mean)).float().clamp(-1, 1)

    def sampling_refusal(self) -> str | None:
        """An untrained autoencoder does not know where latents lie."""
        return None if self.latent_batches else "the autoencoder has seen no images to learn the latents from: train it"

    def _follow(self, z: Tensor) -> None:
        """Update mean and covariance with this process's latents (B, d) of a batch that all processes share.

        The first batches are averaged equally, later ones exponentially, because the encoder still changes.
        """
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            mean = mean_over_processes(z.mean(0))
            cov = mean_over_processes((z - mean).T @ (z - mean) / len(z))
            weight = 1 / (self.latent_batches + 1).clamp(max=MEMORY_BATCHES).float()
            step = mean - self.latent_mean
            mixed = torch.lerp(self.latent_cov, cov, weight) + weight * (1 - weight) * torch.outer(step, step)
            good = mixed.isfinite().all()  # a batch with NaN changes nothing
            self.latent_mean.copy_(torch.where(good, self.latent_mean + weight * step, self.latent_mean))
            self.latent_cov.copy_(torch.where(good, mixed, self.latent_cov))
            self.latent_batches += good


def root(cov: Tensor) -> Tensor:
    """L with L L^T = cov (d, d), plus a millionth of the mean variance, without which few images give a singular cov."""
    jitter = 1e-6 * cov.diagonal().mean() + torch.finfo(cov.dtype).tiny
    return torch.linalg.cholesky(cov + jitter * torch.eye(len(cov), dtype=cov.dtype))
