"""The side of torch-mimicry, run by its own Python: needs torch and torch_mimicry, nothing of this repository.

python -m benchmarks.peer_mimicry JOB.json, written by benchmarks.gan_mimicry. The job names a file of uint8 images
(N, C, S, S), the net and its parameters (null: mimicry's own widths), the seconds, and where draws and report go.

What the job does not say is as in mimicry's README and its table of baselines for CIFAR-10.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SIDE = 32  # of mimicry's smallest nets
CLASSES = {"sngan": "SNGAN", "dcgan": "DCGAN", "wgan_gp": "WGANGP"}
BATCH, CRITIC_STEPS, LEARNING_RATE, BETAS = 64, 5, 2e-4, (0.0, 0.9)
WIDTHS = range(8, 264, 8)


def skip_init() -> None:
    """Makes torch_mimicry's nets and trainer importable without the rest of it.

    Its __init__ also imports its metrics and its data sets, which need tensorflow and torch._six: torch 2 has no such.
    """
    found = importlib.util.find_spec("torch_mimicry")
    if found is None:
        raise ModuleNotFoundError("torch_mimicry is not installed")
    package = types.ModuleType("torch_mimicry")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["torch_mimicry"] = package


# ---- images ----


def padded(image_u8: Tensor) -> Tensor:
    """uint8 (N, C, S, S) with C 1 or 3 -> (N, 3, 32, 32) in [-1, 1], black around it, a grey value in all channels."""
    before = (SIDE - image_u8.shape[-1]) // 2
    after = SIDE - image_u8.shape[-1] - before
    image = F.pad(image_u8, (before, after, before, after)).expand(-1, 3, -1, -1)
    return image.float() / 127.5 - 1


def unpadded(image: Tensor, channels: int, side: int) -> Tensor:
    """The way back, as uint8: the margin is cut off, the channels are averaged if there shall be one.

    Raises: ValueError for NaN or infinite pixels.
    """
    if not torch.isfinite(image).all():
        raise ValueError("the generator draws NaN or infinite pixels: the training diverged")
    before = (SIDE - side) // 2
    image = image[..., before : before + side, before : before + side]
    image = image.mean(1, keepdim=True) if channels == 1 else image
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class Images(Dataset):
    """Images with a label, which mimicry's trainer wants and its unconditional nets do not look at; counts them."""

    def __init__(self, image_u8: Tensor) -> None:
        self.image_u8, self.seen = image_u8, 0

    def __len__(self) -> int:
        return len(self.image_u8)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        self.seen += len(indices)
        return [(image, 0) for image in padded(self.image_u8[indices])]


# ---- nets and training ----


def parameters(net: nn.Module) -> int:
    """How many numbers a net learns."""
    return sum(p.numel() for p in net.parameters())


def sized(build: Callable[[int], nn.Module], goal: int) -> nn.Module:
    """The net whose number of parameters is nearest to a goal, among widths in steps of 8."""
    width = min(WIDTHS, key=lambda w: abs(parameters(build(w)) - goal))
    return build(width)


def players(job: dict[str, Any]) -> tuple[Any, Any]:
    """mimicry's generator and discriminator for 32 pixels, at its own widths or with about the job's parameters."""
    module, name = importlib.import_module(f"torch_mimicry.nets.{job['net']}"), CLASSES[job["net"]]
    generator, discriminator = (getattr(module, f"{name}{kind}32") for kind in ("Generator", "Discriminator"))
    if job["parameters"] is None:
        return generator(), discriminator()
    goal = job["parameters"]
    g = sized(lambda width: generator(ngf=width), goal["generator"])
    return g, sized(lambda width: discriminator(ndf=width), goal["discriminator"])


def end_in(trainer: Any, seconds: float) -> dict[str, float]:
    """Sets the trainer's number of steps, at every step of G, to what fits the seconds at the speed so far.

    Its learning rate falls linearly over its steps; so it falls over the seconds, to zero, whatever else the machine
    does. Call it right before the training. Returns counts that go up with it.
    """
    counts, began = {"steps": 0, "generator_steps": 0, "seconds": 0.0}, time.perf_counter()

    def after_d(*_: Any) -> None:
        counts["steps"] += 1

    def after_g(*_: Any) -> None:
        counts["generator_steps"] += 1
        counts["seconds"] = time.perf_counter() - began
        steps = math.ceil(counts["generator_steps"] * seconds / counts["seconds"])
        trainer.num_steps = trainer.scheduler.num_steps = max(1, steps)

    trainer.optD.register_step_post_hook(after_d)
    trainer.optG.register_step_post_hook(after_g)
    return counts


def train(job: dict[str, Any], image_u8: Tensor) -> tuple[Any, dict[str, Any]]:
    """The generator as mimicry's trainer leaves it, and facts of the training; building the nets is not timed."""
    from torch_mimicry.training import Trainer

    g, d = players(job)
    images = Images(image_u8)
    trainer = Trainer(
        netD=d,
        netG=g,
        optD=torch.optim.Adam(d.parameters(), LEARNING_RATE, betas=BETAS),
        optG=torch.optim.Adam(g.parameters(), LEARNING_RATE, betas=BETAS),
        n_dis=CRITIC_STEPS,
        num_steps=10**9,
        lr_decay="linear",
        dataloader=DataLoader(images, batch_size=BATCH, shuffle=True),
        log_dir=job["dir"],
        device=torch.device("cpu"),
    )
    counts = end_in(trainer, job["seconds"])
    trainer.train()
    sizes = {"generator": parameters(g), "discriminator": parameters(d), "ngf": g.ngf, "ndf": d.ndf}
    return g, {**counts, **sizes, "images": images.seen, "last_lr": trainer.optG.param_groups[0]["lr"]}


@torch.no_grad()
def draw(generator: Any, n: int, channels: int, side: int) -> Tensor:
    """n images uint8 (n, C, S, S), in evaluation mode as mimicry's metrics draw them."""
    generator.eval()
    parts = [generator.generate_images(min(500, n - i), device=torch.device("cpu")) for i in range(0, n, 500)]
    return unpadded(torch.cat(parts), channels, side)


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    skip_init()
    image_u8 = torch.from_numpy(np.load(job["images"]))
    generator, report = train(job, image_u8)
    np.save(job["draws"], draw(generator, job["n"], image_u8.shape[1], image_u8.shape[-1]).numpy())
    Path(job["report"]).write_text(json.dumps(report))  # last: where it stands, all the rest does


if __name__ == "__main__":
    main(sys.argv[1])
