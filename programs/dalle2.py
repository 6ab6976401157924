"""DALL-E 2 in one loop: caption -> prior -> CLIP's embedding of an image -> decoder -> image. python -m programs.dalle2

A CLIP is trained first and then frozen. The prior is a diffusion model of its embeddings of images, told the caption; the decoder is one of
images, told the embedding. An embedding holds what an image shows and leaves open how: the same decoder draws variations of an image. The
decoder draws 32 pixels; the paper's upsamplers are the second stage of programs.text_to_image. Ramesh et al. 2022.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.scenes import EXAMPLE_PROMPTS, ScenesDataset
from diffusion.denoiser import Denoiser
from diffusion.guidance import guided
from diffusion.samplers import ddim, ddpm
from diffusion.schedules import CosineSchedule
from diffusion.threshold import thresholded
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from networks.conditioners import ImageEmbeddingConditioner
from networks.prior import EmbeddedCaptionConditioner, PriorTransformer
from networks.unet import UNet
from optimizers.muon import Muon
from programs import clip

SIZE, EMBED_DIM, PRIOR_DIM = 32, 64, 128
SCALE = EMBED_DIM**0.5  # brings the numbers of a unit vector to about 1, as diffusion expects


def main(
    clip_steps: int = 800, steps: int = 2000, batch_size: int = 32, dim: int = 32, width: int = 128, num_steps: int = 32, guidance_scale: float = 2.0,
    out: str = "dalle2.png",
) -> list[float]:  # fmt: skip
    """Trains all three, writes images of eight prompts and variations of one image, and returns the sum of prior's and decoder's losses."""
    torch.manual_seed(0)
    frozen, tokens, _ = clip.train(clip_steps, 2 * batch_size, width)
    frozen.requires_grad_(False)
    data = ScenesDataset("scenes_simple", SIZE, 50_000, ("train",), 0, "train")

    caption = EmbeddedCaptionConditioner(width, EMBED_DIM, PRIOR_DIM)
    prior = Denoiser(PriorTransformer(size=EMBED_DIM, dim=PRIOR_DIM, tokens_dim=PRIOR_DIM), CosineSchedule(), prediction="x_0")
    embedding = ImageEmbeddingConditioner(EMBED_DIM, emb_dim=4 * dim, tokens_dim=4 * dim)
    net = UNet(image_size=SIZE, dim=dim, dim_mults=(1, 4), num_res_blocks=(1, 0), mid_blocks=4, mid_res=False, fold=2, attn_resolutions=(8,),
               position=True, tokens_dim=4 * dim, emb_dim=4 * dim)  # fmt: skip
    decoder = Denoiser(net, CosineSchedule(shift=-2.0), prediction="v")
    optimizer = Muon([p for part in (caption, prior, embedding, decoder) for p in part.parameters()], lr=3.5e-3, adam_lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)

    def told_caption(captions: list[str], keep: Tensor) -> dict[str, Tensor]:
        vector, tokens_read, mask = frozen.encode_tokens(tokens(captions))
        value = caption.from_batch({"text_vector": vector, "text_embeds": tokens_read, "text_mask": mask})
        return caption(caption.drop(value, keep))

    def told_embedding(z: Tensor, keep: Tensor) -> dict[str, Tensor]:
        return embedding(embedding.drop(embedding.from_batch({"image_embeds": z}), keep))

    losses = []
    for step in range(steps):
        items = [data[(index, step)] for index in torch.randint(len(data), (batch_size,)).tolist()]
        image, captions = torch.stack([item["image"] for item in items]), [item["caption"] for item in items]
        z = frozen.encode_image(image)
        parts = ((prior, SCALE * z, told_caption(captions, torch.rand(batch_size) > 0.1)), (decoder, image, told_embedding(z, torch.rand(batch_size) > 0.1)))
        loss = sum(model.loss(x_0, torch.rand(batch_size), torch.randn_like(x_0), **told).mean() for model, x_0, told in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step}/{steps}  loss {losses[-1]:.4f}", flush=True)

    n, prompts = len(EXAMPLE_PROMPTS), list(EXAMPLE_PROMPTS)
    all_of, none_of = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)

    def decode(z: Tensor) -> Tensor:
        denoise = guided(decoder, told_embedding(z, all_of), told_embedding(z, none_of), guidance_scale)
        return ddim(thresholded(denoise, "dynamic"), decoder.schedule, torch.randn(n, 3, SIZE, SIZE), num_steps=num_steps, eta=1.0)

    with torch.no_grad():
        z = ddpm(guided(prior, told_caption(prompts, all_of), None, 1.0), prior.schedule, torch.randn(n, EMBED_DIM), num_steps=num_steps)
        drawn = decode(normalize(z, dim=-1))
        one = ScenesDataset("scenes_simple", SIZE, 8, ("iid",), 0, "test")[(1, 1)]
        varied = decode(frozen.encode_image(one["image"][None]).expand(n, -1))
    images = torch.cat([drawn, one["image"][None], varied[1:]]).clamp(-1, 1)
    captioned_grid(to_uint8(images), [*prompts, f"given: {one['caption']}", *["a variation of it"] * (n - 1)], columns=8).save(Path(out))
    return losses


if __name__ == "__main__":
    main()
