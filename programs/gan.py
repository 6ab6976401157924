"""A generative adversarial network in one loop. python -m programs.gan

min over G, max over D of E log D(x) + E log(1 - D(G(z))): D learns to tell images from G's, and G learns to make D fail. The players take
turns. G minimises -log D(G(z)), which has a gradient also where D is sure. Goodfellow et al. 2014; nets of Radford et al. 2016 (DCGAN).
"""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.class_files import load
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.gan import DCGANDiscriminator, DCGANGenerator
from objectives.adversarial import logistic_discriminator, non_saturating_generator


def main(steps: int = 3000, batch_size: int = 32, latent_dim: int = 64, out: str = "gan.png") -> list[tuple[float, float]]:
    """Trains, writes generated images, and returns the losses of both players at every step."""
    torch.manual_seed(0)
    (train, _), _, _ = load("garments", None)  # uint8 (N, 1, 28, 28)
    train = torch.from_numpy(train.copy()).float() / 127.5 - 1

    generator = DCGANGenerator(image_size=28, channels=1, latent_dim=latent_dim)
    discriminator = DCGANDiscriminator(image_size=28, channels=1)
    optimizers = {net: torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator)}

    losses = []
    for step in range(steps):
        # The discriminator's turn: the generator is not asked for a gradient.
        real = train[torch.randint(len(train), (batch_size,))]
        with torch.no_grad():
            fake = generator(torch.randn(batch_size, latent_dim))
        d_loss = logistic_discriminator(discriminator(real), discriminator(fake))
        optimizers[discriminator].zero_grad()
        d_loss.backward()
        optimizers[discriminator].step()

        # The generator's turn: the gradient goes through the discriminator, which does not move.
        g_loss = non_saturating_generator(discriminator(generator(torch.randn(batch_size, latent_dim))))
        optimizers[generator].zero_grad()
        g_loss.backward()
        optimizers[generator].step()

        losses.append((d_loss.item(), g_loss.item()))
        if step % 100 == 0:
            print(f"step {step}/{steps}  discriminator {losses[-1][0]:.3f}  generator {losses[-1][1]:.3f}", flush=True)

    generator.eval()
    with torch.no_grad():
        image = generator(torch.randn(64, latent_dim))
    captioned_grid(to_uint8(image), columns=16).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
