"""A diffusion model of classes in one loop. python -m programs.diffusion

x_t = alpha(t) x_0 + sigma(t) eps adds noise until nothing else is left. A U-Net learns to say v = alpha eps - sigma x_0 of it, from which the
image behind the noise follows: x_0_hat = alpha x_t - sigma v. Drawing starts from noise and goes back in steps. One label in ten is dropped in
training; guidance then goes further from the estimate without a label to the one with it. Ho et al. 2020; Salimans & Ho 2022; Ho & Salimans 2022.
"""

from __future__ import annotations

from pathlib import Path

import torch

from datamodules.class_files import load
from diffusion.denoiser import Denoiser
from diffusion.guidance import guided
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.conditioners import LabelConditioner
from networks.unet import UNet


def main(
    steps: int = 1500, batch_size: int = 32, dim: int = 48, num_steps: int = 50, guidance_scale: float = 2.0, out: str = "diffusion.png"
) -> list[float]:
    """Trains, writes a row of images of each class, and returns the loss of every step."""
    torch.manual_seed(0)
    (images, classes), _, names = load("garments", None)  # uint8 (N, 1, 28, 28), int64 (N,)
    images, classes = torch.from_numpy(images.copy()).float() / 127.5 - 1, torch.from_numpy(classes)

    # fold=2 turns 28 x 28 pixels into 14 x 14 places of four channels: a quarter of the work, and nothing is lost
    net = UNet(image_size=28, channels=1, fold=2, dim=dim, dim_mults=(1, 2), num_res_blocks=1, attn_resolutions=(7,), position=True)
    conditioner = LabelConditioner(len(names), emb_dim=4 * dim)
    denoiser = Denoiser(net, CosineSchedule(), prediction="v")
    optimizer = torch.optim.AdamW([*net.parameters(), *conditioner.parameters()], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    losses = []
    for step in range(steps):
        chosen = torch.randint(len(images), (batch_size,))
        keep = torch.rand(batch_size) > 0.1
        told = conditioner(conditioner.drop({"label": classes[chosen]}, keep))
        loss = denoiser.loss(images[chosen], torch.rand(batch_size), torch.randn(batch_size, 1, 28, 28), **told).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0:
            print(f"step {step}/{steps}  squared error of v {losses[-1]:.4f}", flush=True)

    label = torch.arange(len(names)).repeat(6)
    value = {"label": label}
    with torch.no_grad():
        cond, uncond = conditioner(value), conditioner(conditioner.drop(value, torch.zeros(len(label), dtype=torch.bool)))
        denoise = guided(denoiser, cond, uncond, guidance_scale)
        image = ddim(denoise, denoiser.schedule, torch.randn(len(label), 1, 28, 28), num_steps=num_steps)
    captioned_grid(to_uint8(image.clamp(-1, 1)), [names[i] for i in label], columns=len(names)).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
