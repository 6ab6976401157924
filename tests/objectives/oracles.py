"""A linear-Gaussian VAE: p(z) = N(0, I), p(x | z) = N(W z + b, s2 I), whose posterior and likelihood are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from objectives.elbo import log_normal, reparameterise
from objectives.pixels import Gaussian

SIDE = 3  # images (1, 3, 3): nine pixels


class LinearGaussian:
    """Float64; with `diagonal` the columns of W are orthogonal, and so the exact posterior factorises."""

    def __init__(self, diagonal: bool, latent_dim: int = 2, variance: float = 0.3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        size = (SIDE * SIDE, latent_dim)
        self.w = torch.randn(size, generator=generator, dtype=torch.float64)
        if diagonal:
            self.w = torch.linalg.qr(self.w)[0] * torch.tensor([1.5, 0.4], dtype=torch.float64)[:latent_dim]
        self.b = torch.randn(SIDE * SIDE, generator=generator, dtype=torch.float64)
        self.variance, self.latent_dim, self.generator = variance, latent_dim, generator
        self.pixels = Gaussian(variance)
        eye = torch.eye(SIDE * SIDE, dtype=torch.float64)
        self.marginal = MultivariateNormal(self.b, self.w @ self.w.T + variance * eye)

    def images(self, n: int) -> Tensor:
        noise = torch.randn(n, SIDE * SIDE, generator=self.generator, dtype=torch.float64)
        scale = torch.linalg.cholesky(self.marginal.covariance_matrix)
        return (self.b + noise @ scale.T).reshape(n, 1, SIDE, SIDE)

    def decode(self, z: Tensor) -> Tensor:
        return (z @ self.w.T + self.b).unflatten(-1, (1, SIDE, SIDE))

    def log_p(self, image: Tensor) -> Tensor:
        return self.marginal.log_prob(image.flatten(1))

    def posterior(self, image: Tensor) -> MultivariateNormal:
        precision = torch.eye(self.latent_dim, dtype=torch.float64) + self.w.T @ self.w / self.variance
        covariance = precision.inverse()
        mean = (image.flatten(1) - self.b) @ self.w @ covariance / self.variance
        return MultivariateNormal(mean, covariance.expand(len(image), -1, -1))

    def mean_field(self, image: Tensor, widened: float = 1.0) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of a diagonal posterior: the best one, or a `widened` one."""
        exact = self.posterior(image)
        precision = exact.precision_matrix.diagonal(dim1=-2, dim2=-1)
        return exact.mean, -precision.log() + math.log(widened)

    def gap(self, image: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """KL(q || exact posterior), (B,): what the ELBO misses of log p(x)."""
        return kl_divergence(MultivariateNormal(mean, torch.diag_embed(log_var.exp())), self.posterior(image))

    def log_w(self, image: Tensor, mean: Tensor, log_var: Tensor, k: int) -> Tensor:
        """k log importance weights of each image, (k, B)."""
        eps = torch.randn(k, *mean.shape, generator=self.generator, dtype=torch.float64)
        z = reparameterise(mean, log_var, eps)
        return self.pixels.log_prob(self.decode(z), image) + log_normal(z) - log_normal(z, mean, log_var)
