"""A VAE beats the best linear model of the same kind: probabilistic PCA with as many latents, on held-out images."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.vae import VAE
from networks.autoencoder import MLPDecoder, MLPEncoder
from objectives.pixels import Bernoulli, Gaussian
from scenes.grammar import sample_spec
from scenes.render import render

SIDE, LATENTS = 16, 4


@pytest.fixture(scope="module")
def scenes() -> tuple[Tensor, Tensor]:
    """1,500 grey scenes to train on and 300 others, as bytes in [-1, 1]."""
    images = [render(sample_spec(i, "scenes_simple", "train"), i, 32)[0] for i in range(1800)]
    grey = torch.stack([torch.from_numpy(image).double().mean(2) for image in images])[:, None]
    image_u8 = F.avg_pool2d(grey, 2).round()
    image = image_u8.float() / 127.5 - 1
    return image[:1500], image[1500:]


def trained(module: VAE, image: Tensor, steps: int) -> VAE:
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    draw = torch.Generator().manual_seed(0)
    for step in range(steps):
        rows = torch.randint(len(image), (100,), generator=draw)
        optimizer.zero_grad()
        module.losses({"image": image[rows], "seed": rows + step * len(image)})["loss"].backward()
        optimizer.step()
    return module.eval()


def vae(likelihood: torch.nn.Module) -> VAE:
    torch.manual_seed(0)
    encoder, decoder = (functools.partial(kind, hidden=(256,)) for kind in (MLPEncoder, MLPDecoder))
    return VAE(encoder, decoder, likelihood, LATENTS, SIDE, 1, eval_importance_samples=(50,))


def ppca_nats(train: Tensor, test: Tensor, k: int) -> float:
    """Mean negative log density of `test` (N, D) under the best probabilistic PCA of `train`, in closed form.

    Source: Tipping and Bishop 1999, eqs. 7 and 8
    """
    mean = train.mean(0)
    values, vectors = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    rest = values[:-k].mean()
    w = vectors[:, -k:] * (values[-k:] - rest).sqrt()
    cov = w @ w.T + rest * torch.eye(len(values), dtype=train.dtype)
    return -float(torch.distributions.MultivariateNormal(mean, cov).log_prob(test).mean())


def test_a_gaussian_decoder_beats_probabilistic_pca(scenes) -> None:
    train, test = scenes
    module = trained(vae(Gaussian("optimal")), train, 1200)
    batch = {"image": test, "seed": torch.arange(len(test))}
    spread = [module._pixels_of({"image": x, "seed": torch.arange(len(x))}).double().flatten(1) for x in (train, test)]
    linear = ppca_nats(*spread, LATENTS)
    bound = float(module.likelihood(batch)["elbo_density_nats"].mean())
    assert bound < linear - 5, f"{bound:.1f} nats, probabilistic PCA {linear:.1f}"


def test_black_and_white_pixels_beat_independent_ones(scenes) -> None:
    train, test = ((image > -0.6).float() * 2 - 1 for image in scenes)
    module = trained(vae(Bernoulli()), train, 400)
    white = ((train + 1) / 2).sum(0).add(1) / (len(train) + 2)
    independent = F.binary_cross_entropy(white.expand_as(test), (test + 1) / 2, reduction="sum") / len(test)
    bound = float(module.likelihood({"image": test, "seed": torch.arange(len(test))})["elbo_nats"].mean())
    assert 0 < bound < 0.8 * float(independent), f"{bound:.1f} nats, independent pixels {float(independent):.1f}"
