"""The side of denoising-diffusion-pytorch, run by its own Python: needs torch and that package, nothing of this repository.

python -m benchmarks.peer_ddpm JOB.json, written by benchmarks.diffusion_table. The job names a file of uint8 images
(N, 1, S, S), the processor seconds of training, the widths of the net, and where draws and report go.

Its `Unet` and `GaussianDiffusion` are as they come. The loop is what its `Trainer` does: Adam with betas (0.9, 0.99), two
batches of 32 a step, gradients clipped at 1, the averaging of ema_pytorch with its settings (0.995, every ten steps).
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BATCH, ACCUMULATE, BETAS, CLIP = 32, 2, (0.9, 0.99), 1.0
TIMESTEPS, DRAW_BATCH = 1000, 250


def processor_sec() -> float:
    """Processor seconds of this process and of its children that ended."""
    return sum(os.times()[:4])


def built(job: dict[str, Any]) -> tuple[Any, int]:
    """The diffusion model and the number of parameters of its net."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=job["dim"], dim_mults=tuple(job["dim_mults"]), channels=1)
    diffusion = GaussianDiffusion(net, image_size=job["side"], timesteps=TIMESTEPS, sampling_timesteps=job["steps"])
    return diffusion, sum(p.numel() for p in net.parameters())


def autocast(job: dict[str, Any]) -> AbstractContextManager[Any]:
    """bfloat16 where our side uses it: its README trains in mixed precision too."""
    return torch.autocast("cpu", torch.bfloat16, enabled=job["bf16"])


def train(job: dict[str, Any], image_u8: Tensor) -> tuple[Any, dict[str, Any]]:
    """The averaged model after the job's processor seconds, and facts of the training."""
    from ema_pytorch import EMA

    began = processor_sec()
    diffusion, parameters = built(job)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=job["lr"], betas=BETAS)
    ema, steps, order = EMA(diffusion, beta=0.995, update_every=10), 0, torch.empty(0, dtype=torch.int64)
    while processor_sec() - began < job["cpu_sec"]:
        for _ in range(ACCUMULATE):
            if len(order) < BATCH:
                order = torch.randperm(len(image_u8))
            mine, order = order[:BATCH], order[BATCH:]
            with autocast(job):
                loss = diffusion(image_u8[mine].float() / 255) / ACCUMULATE
            loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        steps += 1
    facts = {"steps": steps, "images": steps * BATCH * ACCUMULATE, "cpu_sec": processor_sec() - began}
    return ema.ema_model.eval(), facts | {"parameters": parameters}


@torch.no_grad()
def draw(diffusion: Any, job: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """n images uint8, and what one costs; images are in [0, 1]."""
    parts, began, used = [], time.perf_counter(), processor_sec()
    for start in range(0, job["n"], DRAW_BATCH):
        with autocast(job):
            image = diffusion.sample(batch_size=min(DRAW_BATCH, job["n"] - start))
        parts.append((image.float().clamp(0, 1) * 255).round().to(torch.uint8))
        print(f"drawn {start + len(parts[-1])} of {job['n']}", flush=True)
    n = job["n"]
    cost = {"sec_per_image": (time.perf_counter() - began) / n, "cpu_sec_per_image": (processor_sec() - used) / n}
    return torch.cat(parts), cost | {"calls": job["steps"]}


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    diffusion, report = train(job, torch.from_numpy(np.load(job["images"])))
    image_u8, cost = draw(diffusion, job)
    np.save(job["draws"], image_u8.numpy())
    Path(job["report"]).write_text(json.dumps(report | cost))  # last: where it stands, all the rest does


if __name__ == "__main__":
    main(sys.argv[1])
