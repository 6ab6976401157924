"""The side of imagen-pytorch, run by its own Python: needs torch and imagen_pytorch, nothing of this repository.

python -m benchmarks.peer_imagen_pytorch JOB.json, written by benchmarks.quality_imagen_pytorch. The job names a file
of tensors (images_u8 (N, 3, S, S), text_of (N,), embeds (U, L, D), mask (U, L), prompt_text (P,)) and where results go.

One trainer trains one net (its own rule), so the base net trains first and the super-resolution net after it, each for
its share of the time.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

# imagen_pytorch asks the hub for the width of its default T5 when it is imported; text comes as embeddings here.
transformers.T5Config.from_pretrained = classmethod(lambda cls, *_, **__: cls(d_model=768))

from imagen_pytorch import Imagen, ImagenTrainer, Unet  # noqa: E402

# The README's two nets, scaled down to about the parameters of conf/model/imagen.yaml's two stages. Attention stands at
# the coarsest level only, as in the README's second net, and the second net is its memory-efficient kind: it is faster.
BASE = {
    "dim": 40,
    "cond_dim": 128,
    "dim_mults": (1, 2, 4),
    "num_resnet_blocks": 1,
    "layer_attns": (False, False, True),
    "layer_cross_attns": (False, False, True),
    "attn_heads": 4,
}
SUPER_RESOLUTION = {
    "dim": 16,
    "cond_dim": 64,
    "dim_mults": (1, 2, 3),
    "num_resnet_blocks": 1,
    "layer_attns": False,
    "layer_cross_attns": (False, False, True),
    "attn_heads": 4,
    "memory_efficient": True,
}
COND_SCALE = 3.0  # the README's


def build(job: dict[str, Any], text_dim: int) -> Imagen:
    """The cascade with imagen-pytorch's defaults: noise prediction, cosine schedule, min-SNR, dynamic thresholding."""
    return Imagen(
        unets=(Unet(text_embed_dim=text_dim, **BASE), Unet(text_embed_dim=text_dim, **SUPER_RESOLUTION)),
        image_sizes=(job["base_size"], job["image_size"]),
        text_embed_dim=text_dim,
        timesteps=job["steps"],
        cond_drop_prob=0.1,
    )


def train(trainer: ImagenTrainer, unet: int, data: dict[str, Tensor], batch: int, seconds: float) -> dict[str, Any]:
    """Trains one net for a number of seconds and returns what it did."""
    losses, count, began = [], len(data["images_u8"]), time.perf_counter()
    order = torch.randperm(count)
    while time.perf_counter() - began < seconds or not losses:
        if len(order) < batch:
            order = torch.randperm(count) if count >= batch else torch.randint(count, (batch,))
        rows, order = order[:batch], order[batch:]
        text = data["text_of"][rows]
        images = data["images_u8"][rows].float() / 255  # [0, 1], as its data loaders give them
        losses.append(
            trainer(images, text_embeds=data["embeds"][text], text_masks=data["mask"][text], unet_number=unet)
        )
        trainer.update(unet_number=unet)
    newest = losses[-20:]
    return {"steps": len(losses), "sec": time.perf_counter() - began, "last_loss": sum(newest) / len(newest)}


def sample(trainer: ImagenTrainer, data: dict[str, Tensor], batch: int) -> Tensor:
    """uint8 (P, 3, S, S) for the prompts, from the averaged weights, as `ImagenTrainer.sample` does."""
    images = []
    for text in data["prompt_text"].split(batch):
        out = trainer.sample(
            text_embeds=data["embeds"][text], text_masks=data["mask"][text], cond_scale=COND_SCALE, use_tqdm=False
        )
        images.append((out.clamp(0, 1) * 255).round().to(torch.uint8))
        print(f"imagen-pytorch: {sum(map(len, images))}/{len(data['prompt_text'])} images sampled", flush=True)
    return torch.cat(images)


def main(job_file: str) -> None:
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    data = torch.load(job["data"], weights_only=True)
    text_dim, checkpoint = data["embeds"].shape[-1], str(Path(job["out"]).with_suffix(".trainer.pt").resolve())
    trained = {}
    for unet, name in ((1, "base"), (2, "super_resolution")):
        trainer = ImagenTrainer(imagen=build(job, text_dim), accelerate_cpu=True, verbose=False)
        if unet == 2:
            trainer.load(checkpoint)
        trained[name] = train(trainer, unet, data, job["batch"], job["seconds"][name])
        trained[name]["parameters"] = sum(p.numel() for p in trainer.imagen.unets[unet - 1].parameters())
        print(f"imagen-pytorch: {name} trained, {trained[name]['steps']} steps", flush=True)
        if unet == 1:
            trainer.save(checkpoint)
    began = time.perf_counter()
    images = sample(trainer, data, job["batch"])
    trained["sample_sec"] = time.perf_counter() - began
    torch.save({"images_u8": images, "report": trained}, job["out"])
    Path(checkpoint).unlink()


if __name__ == "__main__":
    main(sys.argv[1])
