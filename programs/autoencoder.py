"""An autoencoder in one loop: image -> 16 numbers -> the same image. python -m programs.autoencoder

It minimises the squared error of the reconstruction. Nothing says how the 16 numbers are distributed, so nothing says how to draw new
images: programs/vae.py does. Hinton & Salakhutdinov 2006.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import mse_loss

from datamodules.class_files import load
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.autoencoder import ConvDecoder, ConvEncoder


def main(steps: int = 1500, batch_size: int = 128, latent_dim: int = 16, out: str = "autoencoder.png") -> list[float]:
    """Trains, writes reconstructions above their originals, and returns the loss of every step."""
    torch.manual_seed(0)
    (train, _), (test, _), _ = load("garments", None)  # uint8 (N, 1, 28, 28)
    train, test = (torch.from_numpy(images.copy()).float() / 127.5 - 1 for images in (train, test))

    encoder = ConvEncoder(image_size=28, channels=1, out_dim=latent_dim)
    decoder = ConvDecoder(image_size=28, out_channels=1, latent_dim=latent_dim)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    losses = []
    for step in range(steps):
        x = train[torch.randint(len(train), (batch_size,))]
        loss = mse_loss(decoder(encoder(x)), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}/{steps}  squared error {losses[-1]:.4f}", flush=True)

    encoder.eval(), decoder.eval()
    with torch.no_grad():
        shown = test[:16]
        both = torch.cat([decoder(encoder(shown)), shown])
    captioned_grid(to_uint8(both), columns=16).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
