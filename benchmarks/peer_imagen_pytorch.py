"""The side of imagen-pytorch, run by its own Python: needs torch and imagen_pytorch.

python -m benchmarks.peer_imagen_pytorch JOB.json, written by benchmarks.quality. One trainer trains one net (its own rule), so the base
net trains first and the super-resolution net after it, each for its share of the processor seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.peer_data import Data, batches, draw, read_job
from benchmarks.peer_ddpm import processor_sec

# imagen_pytorch asks the hub for the width of its default T5 when it is imported; text comes as embeddings here.
transformers.T5Config.from_pretrained = classmethod(lambda cls, *_, **__: cls(d_model=768))

from imagen_pytorch import Imagen, ImagenTrainer, Unet  # noqa: E402

# The README's two nets, scaled down to about the parameters of conf/model/imagen.yaml's two stages. Attention stands at
# the coarsest level only, as in the README's second net, and the second net is its memory-efficient kind: it is faster.
BASE = {
    "dim": 24,
    "cond_dim": 128,
    "dim_mults": (1, 2, 4),
    "num_resnet_blocks": 1,
    "layer_attns": (False, False, True),
    "layer_cross_attns": (False, False, True),
    "attn_heads": 4,
}
SUPER_RESOLUTION = {
    "dim": 8,
    "cond_dim": 64,
    "dim_mults": (1, 2, 3),
    "num_resnet_blocks": 1,
    "layer_attns": False,
    "layer_cross_attns": (False, False, True),
    "attn_heads": 4,
    "memory_efficient": True,
}


def build(job: dict[str, Any], text_dim: int) -> Imagen:
    """The cascade with imagen-pytorch's defaults: noise prediction, cosine schedule, min-SNR, dynamic thresholding."""
    return Imagen(
        unets=(Unet(text_embed_dim=text_dim, **BASE), Unet(text_embed_dim=text_dim, **SUPER_RESOLUTION)),
        image_sizes=(job["base_size"], job["image_size"]),
        text_embed_dim=text_dim,
        timesteps=job["steps"],
        cond_drop_prob=0.1,
    )


def train(trainer: ImagenTrainer, unet: int, data: Data, batch: int, cpu_sec: float) -> dict[str, Any]:
    """Trains one net for a number of processor seconds and returns what it did."""
    losses, began = [], processor_sec()
    for image_u8, embeds, mask in batches(data, batch, cpu_sec):
        # [0, 1], as its data loaders give them
        losses.append(trainer(image_u8.float() / 255, text_embeds=embeds, text_masks=mask, unet_number=unet))
        trainer.update(unet_number=unet)
    newest = losses[-20:]
    return {"steps": len(losses), "cpu_sec": processor_sec() - began, "last_loss": sum(newest) / len(newest)}


def main(job_file: str) -> None:
    job, data = read_job(job_file)
    checkpoint = str(Path(job["out"]).with_suffix(".trainer.pt").resolve())
    seconds = {"base": job["cpu_sec"] * job["base_share"], "super_resolution": job["cpu_sec"] * (1 - job["base_share"])}
    nets: dict[str, Any] = {}
    for unet, name in enumerate(seconds, 1):
        trainer = ImagenTrainer(imagen=build(job, data["embeds"].shape[-1]), lr=job["lr"], accelerate_cpu=True, verbose=False)
        if unet == 2:
            trainer.load(checkpoint)
        nets[name] = train(trainer, unet, data, job["batch"], seconds[name])
        nets[name]["parameters"] = sum(p.numel() for p in trainer.imagen.unets[unet - 1].parameters())
        print(f"imagen-pytorch: {name} trained, {nets[name]['steps']} steps", flush=True)
        if unet == 1:
            trainer.save(checkpoint)
    began = time.perf_counter()
    options = {"cond_scale": job["guidance_scale"], "use_tqdm": False}
    image_u8 = draw(data, job["batch"], lambda embeds, mask: trainer.sample(text_embeds=embeds, text_masks=mask, **options))
    report = {
        "nets": nets, "parameters": sum(net["parameters"] for net in nets.values()), "steps": nets["base"]["steps"],
        "images": nets["base"]["steps"] * job["batch"], "cpu_sec": sum(net["cpu_sec"] for net in nets.values()),
        "sec_per_image": (time.perf_counter() - began) / len(image_u8),
    }  # fmt: skip
    torch.save({"images_u8": image_u8, "report": report}, job["out"])
    Path(checkpoint).unlink()


if __name__ == "__main__":
    main(sys.argv[1])
