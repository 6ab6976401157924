"""What sample.py draws from an image's embedding: variations, the way from one image to another, and edits by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import DrawsEmbeddings, Request
from evaluation.metrics.images import to_uint8
from evaluation.metrics.reconstruction import psnr
from evaluation.pictures.captioned_grid import captioned_grid
from evaluation.pictures.latent_sheets import slerp
from evaluation.pictures.tasks import TaskPictures

FARTHEST = 0.5  # share of the way from an image's embedding to the direction of an edit


@torch.inference_mode()
def variations(
    module: DrawsEmbeddings, request: Request, seeds: Sequence[int], noise_options: dict[str, Any], draw_options: dict[str, Any]
) -> TaskPictures:
    """n images that share the embedding of one; with the option `eta`, its noise as well, as far as eta leaves it.

    At eta 0 each is the image again; `psnr_db` says how nearly.

    Args:
        request: n times the same image.
    Source: Ramesh et al. 2022 (unCLIP), section 3.1
    """
    one, eta = request.take([0]), draw_options.get("eta")
    z, x_T = module.embedding_of(one), None
    if eta is not None:
        x_T = each(module.noise_of(z, one, **noise_options), request.n)
    images_u8 = to_uint8(module.draw_embedded(each(z, request.n), request, seeds=seeds, x_T=x_T, **draw_options).float().cpu())
    facts = {}
    if eta == 0:
        facts["psnr_db"] = float(psnr(reduced_u8(request.images, images_u8.shape[-1]), images_u8).mean())
    shown, names = with_images(one, images_u8), ["image", *(f"seed {seed}" for seed in seeds)]
    return TaskPictures(images_u8, captioned_grid(shown, names), facts)


@torch.inference_mode()
def interpolate_embeddings(
    module: DrawsEmbeddings, request: Request, seeds: Sequence[int], noise_options: dict[str, Any], draw_options: dict[str, Any]
) -> TaskPictures:
    """n images on the arcs between two images' embeddings and noises; the first and the last are the two drawn again.

    Args:
        request: n times the same prompt, with the two images as the first and the last of `images`.
        seeds: of what is drawn beside: with equal ones, the images differ by what lies between the two alone.
    Source: Ramesh et al. 2022 (unCLIP), section 3.2
    """
    ends = request.take([0, request.n - 1])
    z = module.embedding_of(ends)
    x_T = module.noise_of(z, ends, **noise_options)
    t = torch.linspace(0, 1, request.n, device=z.device)
    ways = [slerp(x[:1].flatten(1), x[1:].flatten(1), t.to(x))[0].unflatten(1, x.shape[1:]) for x in (z, x_T)]
    images_u8 = to_uint8(module.draw_embedded(ways[0], request, seeds=seeds, x_T=ways[1], **draw_options).float().cpu())
    given = reduced_u8(ends.images, images_u8.shape[-1])
    names = ["first image", *(f"{float(x):.2f}" for x in t), "second image"]
    strip = captioned_grid(torch.cat([given[:1], images_u8, given[1:]]), names, columns=len(names))
    ends_again = psnr(given, images_u8[[0, -1]])
    return TaskPictures(images_u8, strip, {"first_psnr_db": float(ends_again[0]), "last_psnr_db": float(ends_again[1])})


@torch.inference_mode()
def edit(
    module: DrawsEmbeddings, request: Request, words: tuple[str, str], seeds: Sequence[int], noise_options: dict[str, Any],
    draw_options: dict[str, Any],
) -> TaskPictures:  # fmt: skip
    """n images on the way from one towards what two captions of it differ in, with the noise of the image.

    Args:
        request: n times the same image.
        words: what the image shows, and what it is to show.
        seeds: as of `interpolate_embeddings`.
    Source: Ramesh et al. 2022 (unCLIP), section 3.3 (text diffs)
    """
    one = request.take([0])
    z = module.embedding_of(one)
    x_T = module.noise_of(z, one, **noise_options)
    before, after = module.captions_embedded(words)
    shares = torch.linspace(0, FARTHEST, request.n, device=z.device)
    way = turned(z, before[None], after[None], shares)[0]  # (n, E)
    images_u8 = to_uint8(module.draw_embedded(way, request, seeds=seeds, x_T=each(x_T, request.n), **draw_options).float().cpu())
    given = reduced_u8(one.images, images_u8.shape[-1])
    names = ["image", *(f"{float(x):.2f}" for x in shares)]
    strip = captioned_grid(with_images(one, images_u8), names, columns=len(names))
    return TaskPictures(images_u8, strip, {"first_psnr_db": float(psnr(given, images_u8[:1])[0])})


def turned(z: Tensor, before: Tensor, after: Tensor, shares: Tensor) -> Tensor:
    """Embeddings z (B, E) turned by shares (K,) of the arc towards what two captions (B, E) differ in: (B, K, E).

    Between equal captions there is no direction; then the arc only shortens the vector, and the norm takes that back.
    """
    return F.normalize(slerp(z, F.normalize(after - before, dim=-1), shares), dim=-1)


def each(x: Tensor, n: int) -> Tensor:
    """(1, ...) n times."""
    return x.expand(n, *x.shape[1:])


def reduced_u8(images: Tensor, size: int) -> Tensor:
    """(B, C, S, S) in [-1, 1] as uint8 of another size, by averages."""
    return to_uint8(F.adaptive_avg_pool2d(images.cpu(), size))


def with_images(one: Request, images_u8: Tensor) -> Tensor:
    """The image of a request, and behind it what was drawn, (1 + n, C, S, S) uint8."""
    return torch.cat([reduced_u8(one.images, images_u8.shape[-1]), images_u8])
