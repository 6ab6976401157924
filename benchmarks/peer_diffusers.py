"""The side of diffusers, run by its own Python: needs torch and diffusers.

python -m benchmarks.peer_diffusers JOB.json, written by benchmarks.quality.

diffusers has no trainer; its examples are scripts. This one has the settings of its text-to-image example: noise prediction over the
default DDPMScheduler, AdamW with weight decay 1e-2, 500 steps of warm-up and a constant rate, gradients clipped at 1, EMAModel. It works on
pixels, drops a tenth of the captions as guidance needs, and draws by DDIM. The example knows no cascade: all the minutes go to images of
half the size, which are enlarged bicubically, and that is enough for the scene parser.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peer_data import Data, batches, draw, read_job
from benchmarks.peer_ddpm import processor_sec

NET = {
    "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (32, 64, 96), "norm_num_groups": 16,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}  # fmt: skip
WARMUP_STEPS, WEIGHT_DECAY, CLIP, DROP = 500, 1e-2, 1.0, 0.1


def train(job: dict[str, Any], data: Data) -> tuple[Any, dict[str, Any]]:
    """The averaged net after the job's processor seconds, and facts of the training."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    net = UNet2DConditionModel(sample_size=job["base_size"], cross_attention_dim=data["embeds"].shape[-1], **NET)
    noise, ema = DDPMScheduler(), EMAModel(net.parameters())
    optimizer = torch.optim.AdamW(net.parameters(), lr=job["lr"], weight_decay=WEIGHT_DECAY)
    rate = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=WARMUP_STEPS)
    steps, began = 0, processor_sec()
    for image_u8, embeds, mask in batches(data, job["batch"], job["cpu_sec"]):
        x_0 = F.interpolate(image_u8.float() / 127.5 - 1, size=job["base_size"], mode="area")
        keep = torch.rand(len(x_0)) >= DROP
        eps, t = torch.randn_like(x_0), torch.randint(noise.config.num_train_timesteps, (len(x_0),))
        eps_hat = net(noise.add_noise(x_0, eps, t), t, **told(embeds, mask, keep)).sample
        F.mse_loss(eps_hat, eps).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        steps += 1
    ema.copy_to(net.parameters())
    facts = {"steps": steps, "images": steps * job["batch"], "cpu_sec": processor_sec() - began}
    return net.eval(), facts | {"parameters": sum(p.numel() for p in net.parameters())}


def told(embeds: Tensor, mask: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Text and the mask of its real tokens; a caption that is not kept is one token of zeros."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    mask = torch.where(keep[:, None], mask, first)
    return {"encoder_hidden_states": embeds * keep[:, None, None], "encoder_attention_mask": mask}


@torch.no_grad()
def images_for(net: Any, job: dict[str, Any], embeds: Tensor, mask: Tensor) -> Tensor:
    """Images (B, 3, S, S) in [0, 1] by DDIM with classifier-free guidance."""
    from diffusers import DDIMScheduler, DDPMScheduler

    scheduler = DDIMScheduler.from_config(DDPMScheduler().config)
    scheduler.set_timesteps(job["steps"])
    n, size = len(embeds), job["base_size"]
    keep = torch.arange(2 * n) < n
    text = told(torch.cat([embeds, embeds]), torch.cat([mask, mask]), keep)
    x = torch.randn(n, 3, size, size)
    for t in scheduler.timesteps:
        cond, uncond = net(torch.cat([x, x]), t, **text).sample.chunk(2)
        x = scheduler.step(uncond + job["guidance_scale"] * (cond - uncond), t, x).prev_sample
    return F.interpolate((x + 1) / 2, size=job["image_size"], mode="bicubic")


def main(job_file: str) -> None:
    job, data = read_job(job_file)
    net, report = train(job, data)
    print(f"diffusers: trained, {report['steps']} steps", flush=True)
    began = time.perf_counter()
    image_u8 = draw(data, job["batch"], lambda embeds, mask: images_for(net, job, embeds, mask))
    report["sec_per_image"] = (time.perf_counter() - began) / len(image_u8)
    torch.save({"images_u8": image_u8, "report": report}, job["out"])


if __name__ == "__main__":
    main(sys.argv[1])
