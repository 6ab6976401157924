"""A variational autoencoder in one loop. python -m programs.vae

log p(x) >= E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)), the ELBO: reconstruct well, and keep the latents close to the prior N(0, I), so
that new images can be drawn from it. z = mean + exp(log_var / 2) eps lets gradients through the draw. Kingma & Welling 2014.
"""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.class_files import load
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.autoencoder import ConvDecoder, ConvEncoder
from objectives.elbo import gaussian_kl, reparameterise
from objectives.pixels import Bernoulli


def main(steps: int = 1500, batch_size: int = 128, latent_dim: int = 10, out: str = "vae.png") -> list[float]:
    """Trains, writes images drawn from the prior, and returns the negative ELBO, in nats an image, of every step."""
    torch.manual_seed(0)
    (train, _), _, _ = load("garments", None)  # uint8 (N, 1, 28, 28)
    grey = torch.from_numpy(train.copy()).float() / 255

    encoder = ConvEncoder(image_size=28, channels=1, out_dim=2 * latent_dim)  # mean and log-variance of q(z | x)
    decoder = ConvDecoder(image_size=28, out_channels=1, latent_dim=latent_dim)  # logits of p(x | z)
    likelihood = Bernoulli()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    losses = []
    for step in range(steps):
        x = 2 * torch.bernoulli(grey[torch.randint(len(grey), (batch_size,))]) - 1  # black and white: -1 or 1
        mean, log_var = encoder(x).chunk(2, dim=1)
        z = reparameterise(mean, log_var, torch.randn_like(mean))
        distortion = -likelihood.log_prob(decoder(z), x)  # (B,) nats
        rate = gaussian_kl(mean, log_var).sum(1)  # (B,) nats
        loss = (distortion + rate).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}/{steps}  -ELBO {losses[-1]:.1f} = distortion {distortion.mean():.1f} + rate {rate.mean():.1f}", flush=True)

    decoder.eval()
    with torch.no_grad():
        image = likelihood.mean(decoder(torch.randn(64, latent_dim)))  # E[x | z] of z from the prior
    captioned_grid(to_uint8(image), columns=16).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
