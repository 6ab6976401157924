"""Imagen in one loop: a frozen text encoder and a cascade of two diffusion models. python -m programs.text_to_image

The first U-Net draws 32 pixels from noise, attending to the words of the caption; the second enlarges to 64 pixels, and is shown the small
image, noised a little in training so that it learns to repair. One caption in ten is dropped, for guidance. Saharia et al. 2022.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from datamodules.scenes import EXAMPLE_PROMPTS, ScenesDataset
from diffusion.denoiser import Denoiser
from diffusion.guidance import guided
from diffusion.process import add_noise
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from diffusion.threshold import thresholded
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.conditioners import LowresConditioner, TextConditioner, combine
from networks.text import MiniLM
from networks.unet import UNet
from optimizers.muon import Muon

SMALL, LARGE, AUG_LEVEL = 32, 64, 0.1


class Stage(nn.Module):
    """One U-Net and what it is told: the caption, and for the second stage the small image."""

    def __init__(self, image_size: int, dim: int, text_dim: int, lowres: bool) -> None:
        super().__init__()
        self.text = TextConditioner(text_dim, tokens_dim=4 * dim, emb_dim=4 * dim, num_layers=0 if lowres else 2)
        self.lowres = LowresConditioner(emb_dim=4 * dim) if lowres else None
        self.denoiser = Denoiser(
            UNet(image_size=image_size, dim=dim, dim_mults=(1, 2) if lowres else (1, 4), num_res_blocks=(1, 1) if lowres else (1, 0),
                 mid_blocks=0 if lowres else 4, mid_res=False, fold=2, attn_resolutions=(16,) if lowres else (8,), attend_self=not lowres,
                 position=not lowres, tokens_dim=4 * dim, emb_dim=4 * dim, cond_channels=3 if lowres else 0),
            CosineSchedule(shift=0.0 if lowres else -2.0), prediction="v",
        )  # fmt: skip

    def told(self, text: dict[str, Tensor], keep: Tensor, small: Tensor | None, level: Tensor | None) -> dict[str, Tensor]:
        """What the net is told; captions are dropped where keep (B,) is False."""
        parts = [self.text(self.text.drop(text, keep))]
        if self.lowres is not None:
            parts.append(self.lowres({"lowres": small, "aug_level": level}))
        return combine(parts)


def enlarged(small: Tensor, level: Tensor) -> Tensor:
    """The small image at the size of the large one, noised up to a level (B,) in [0, 1]."""
    large = interpolate(small, size=LARGE, mode="bilinear")
    return add_noise(large, torch.randn_like(large), level, CosineSchedule())


def main(
    steps: int = 2000, batch_size: int = 32, dim: int = 32, num_steps: int = 32, guidance_scale: float = 3.0, out: str = "text_to_image.png"
) -> list[float]:
    """Trains both stages, writes images of eight prompts, and returns the sum of their losses at every step."""
    torch.manual_seed(0)
    data = ScenesDataset("scenes_simple", LARGE, 50_000, ("train",), 0, "train")
    encoder = MiniLM()  # frozen; its weights came with pip
    base, second = Stage(SMALL, dim, encoder.dim, lowres=False), Stage(LARGE, dim, encoder.dim, lowres=True)
    optimizer = Muon([*base.parameters(), *second.parameters()], lr=3.5e-3, adam_lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)

    def read(captions: list[str]) -> dict[str, Tensor]:
        with torch.no_grad():
            found = encoder.encode(captions)
        return {"text": found.embeds, "mask": found.mask}

    losses = []
    for step in range(steps):
        items = [data[(index, step)] for index in torch.randint(len(data), (batch_size,)).tolist()]
        large, text = torch.stack([item["image"] for item in items]), read([item["caption"] for item in items])
        small, keep = interpolate(large, size=SMALL, mode="area"), torch.rand(batch_size) > 0.1
        some = slice(0, max(1, batch_size // 4))  # enlarging is the easier task, and four times the work
        level = 0.3 * torch.rand(len(large[some]))
        of_some = {key: value[some] for key, value in text.items()}
        told = base.told(text, keep, None, None), second.told(of_some, keep[some], enlarged(small[some], level), level)
        loss = sum(stage.denoiser.loss(x_0, torch.rand(len(x_0)), torch.randn_like(x_0), **given).mean()
                   for stage, x_0, given in zip((base, second), (small, large[some]), told))  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {losses[-1]:.4f}", flush=True)

    n, prompts = len(EXAMPLE_PROMPTS), list(EXAMPLE_PROMPTS)
    text, all_of, none_of, level = read(prompts), torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool), torch.full((n,), AUG_LEVEL)
    with torch.no_grad():
        denoise = guided(base.denoiser, base.told(text, all_of, None, None), base.told(text, none_of, None, None), guidance_scale)
        noise = torch.randn(n, 3, SMALL, SMALL)
        small = ddim(thresholded(denoise, "dynamic"), base.denoiser.schedule, noise, num_steps=num_steps, eta=1.0)
        denoise = guided(second.denoiser, second.told(text, all_of, enlarged(small, level), level), None, 1.0)
        noise = torch.randn(n, 3, LARGE, LARGE)
        large = ddim(thresholded(denoise, "static"), second.denoiser.schedule, noise, num_steps=12)
    captioned_grid(to_uint8(large.clamp(-1, 1)), prompts, columns=4).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
