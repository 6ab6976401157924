"""The side of imagen-pytorch, run by its own Python: needs torch and imagen_pytorch.

python -m benchmarks.peer_imagen_pytorch JOB.json, written by benchmarks.quality. All the minutes go to its first net; its images are enlarged
bicubically, and that is enough for the scene parser. A second net, trained for a sixth of half an hour, made noise of them.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peer_data import Data, batches, draw, read_job
from benchmarks.peer_ddpm import processor_sec

# imagen_pytorch asks the hub for the width of its default T5 when it is imported; text comes as embeddings here.
transformers.T5Config.from_pretrained = classmethod(lambda cls, *_, **__: cls(d_model=768))

from imagen_pytorch import Imagen, ImagenTrainer, Unet  # noqa: E402

# The README's first net, scaled down to about the parameters of conf/model/imagen.yaml. Attention stands at the coarsest level only, as in
# the README's second net: it is faster.
BASE = {
    "dim": 24,
    "cond_dim": 128,
    "dim_mults": (1, 2, 4),
    "num_resnet_blocks": 1,
    "layer_attns": (False, False, True),
    "layer_cross_attns": (False, False, True),
    "attn_heads": 4,
}


def build(job: dict[str, Any], text_dim: int) -> Imagen:
    """One net with imagen-pytorch's defaults: noise prediction, cosine schedule, min-SNR, dynamic thresholding."""
    return Imagen(
        unets=(Unet(text_embed_dim=text_dim, **BASE),),
        image_sizes=(job["base_size"],),
        text_embed_dim=text_dim,
        timesteps=job["steps"],
        cond_drop_prob=0.1,
    )


def train(trainer: ImagenTrainer, data: Data, batch: int, cpu_sec: float) -> dict[str, Any]:
    """Trains for a number of processor seconds and returns what it did."""
    losses, began = [], processor_sec()
    for image_u8, embeds, mask in batches(data, batch, cpu_sec):
        # [0, 1], as its data loaders give them
        losses.append(trainer(image_u8.float() / 255, text_embeds=embeds, text_masks=mask, unet_number=1))
        trainer.update(unet_number=1)
    newest = losses[-20:]
    return {"steps": len(losses), "images": len(losses) * batch, "cpu_sec": processor_sec() - began, "last_loss": sum(newest) / len(newest)}


def main(job_file: str) -> None:
    job, data = read_job(job_file)
    trainer = ImagenTrainer(imagen=build(job, data["embeds"].shape[-1]), lr=job["lr"], accelerate_cpu=True, verbose=False)
    report = train(trainer, data, job["batch"], job["cpu_sec"]) | {"parameters": sum(p.numel() for p in trainer.imagen.unets[0].parameters())}
    print(f"imagen-pytorch: trained, {report['steps']} steps", flush=True)
    began = time.perf_counter()
    options = {"cond_scale": job["guidance_scale"], "use_tqdm": False}

    def images_for(embeds: Tensor, mask: Tensor) -> Tensor:
        small = trainer.sample(text_embeds=embeds, text_masks=mask, **options)
        return F.interpolate(small, size=job["image_size"], mode="bicubic")

    image_u8 = draw(data, job["batch"], images_for)
    report["sec_per_image"] = (time.perf_counter() - began) / len(image_u8)
    torch.save({"images_u8": image_u8, "report": report}, job["out"])


if __name__ == "__main__":
    main(sys.argv[1])
