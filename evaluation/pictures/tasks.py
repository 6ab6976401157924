"""What sample.py draws from images: filled holes, the way from one image to another, and an image through its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contracts import DrawsEmbeddings, Films, Inpaints, Inverts, Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid
from evaluation.pictures.latent_sheets import slerp

FILM_COLUMNS = 10  # moments of a film in its strip
# Task -> what a model must be able to do, and how to say that it is not. Several in a tuple: one of them is enough.
ABILITIES: dict[str, tuple[Any, str]] = {
    "film": (Films, "this model does not draw in steps from noise to images"),
    "inpaint": (Inpaints, "this model cannot fill holes of an image"),
    "interpolate": ((Inverts, DrawsEmbeddings), "this model cannot go from an image to its noise"),
    "invert": (Inverts, "this model cannot go from an image to its noise"),
    "variations": (DrawsEmbeddings, "this model draws from no embedding of an image; model=dalle2 does"),
    "edit": (DrawsEmbeddings, "this model draws from no embedding of an image; model=dalle2 does"),
}


@dataclass(frozen=True)
class TaskPictures:
    """What a task has drawn.

    Args:
        images_u8: (n, C, H, W), to be saved one by one.
        strip: all of them in one picture, beside what they were drawn from.
        facts: numbers about the drawing, for people.
        frames: of an animation, where there is one.
    """

    images_u8: Tensor
    strip: Image.Image
    facts: dict[str, float]
    frames: tuple[Image.Image, ...] = ()


def check_task(task: str, module: Any) -> None:
    """Raises ValueError, in one line, for a task that the model cannot do."""
    ability, refusal = ABILITIES[task]
    if not isinstance(module, ability):
        raise ValueError(f"task={task}: {refusal}; task=sample works with every model")


@torch.inference_mode()
def inpaint(module: Inpaints, request: Request, seeds: Sequence[int], options: dict[str, Any]) -> TaskPictures:
    """n ways to fill the unknown part of one image.

    Args:
        request: n times the same image and mask, True = known.
    """
    images_u8 = to_uint8(module.inpaint(request, seeds=seeds, **options).float().cpu())
    image, known = request.images[:1].cpu(), request.masks[:1].cpu()
    hole = torch.where(known, image, torch.zeros(()))  # grey where nothing is known
    names = ["image", "known part", *(f"seed {seed}" for seed in seeds)]
    shown = torch.cat([to_uint8(image), to_uint8(hole), images_u8])
    return TaskPictures(images_u8, captioned_grid(shown, names), {})


@torch.inference_mode()
def interpolate(
    module: Inverts, request: Request, invert_options: dict[str, Any], draw_options: dict[str, Any]
) -> TaskPictures:
    """n images on the arc between the noises of two images; the first and the last are the two images drawn again.

    Args:
        request: n times the same prompt or class, with the two images as the first and the last of `images`.
    """
    ends = request.take([0, request.n - 1])
    x_T = module.invert(ends, **invert_options)  # (2, ...)
    t = torch.linspace(0, 1, request.n, device=x_T.device, dtype=x_T.dtype)
    way = slerp(x_T[:1].flatten(1), x_T[1:].flatten(1), t)[0].unflatten(1, x_T.shape[1:])  # (n, ...)
    images_u8 = to_uint8(module.draw_from(way, request, **draw_options).float().cpu())
    given = to_uint8(ends.images.cpu())
    names = ["first image", *(f"{float(x):.2f}" for x in t), "second image"]
    shown = torch.cat([given[:1], images_u8, given[1:]])
    return TaskPictures(images_u8, captioned_grid(shown, names, columns=len(shown)), {})


@torch.inference_mode()
def invert(
    module: Inverts, request: Request, invert_options: dict[str, Any], draw_options: dict[str, Any]
) -> TaskPictures:
    """An image, the noise that it can be drawn from, and what is drawn from that noise."""
    x_T = module.invert(request, **invert_options)
    images_u8 = to_uint8(module.draw_from(x_T, request, **draw_options).float().cpu())
    image_u8 = to_uint8(request.images.cpu())
    shown, names = [image_u8], ["image"]
    if x_T.shape[1:] == request.images.shape[1:]:  # the noise of pixels is a picture; two deviations are black and white
        shown, names = [*shown, to_uint8(x_T.float().cpu() / 2)], [*names, "its noise"]
    error = (images_u8.float() - image_u8.float()).abs().mean()
    strip = captioned_grid(torch.cat([*shown, images_u8]), [*names, "drawn from the noise"], columns=len(names) + 1)
    facts = {"noise_mean": float(x_T.mean()), "noise_std": float(x_T.std()), "mean_error_of_255": float(error)}
    return TaskPictures(images_u8, strip, facts)


@torch.inference_mode()
def film(module: Films, request: Request, seeds: Sequence[int], options: dict[str, Any]) -> TaskPictures:
    """How noise is added to an image, and how images come out of noise.

    The strip has a row of the first image with ever more noise; then two rows for each seed, x_t and the estimate of x_0
    at the same steps. The animation shows both ways, with all seeds side by side.

    Args:
        request: what to draw; where it has `images`, noise is added to these instead of to what is drawn.
    """
    way, estimates = map(frames_u8, module.film(replace(request, images=None), seeds=seeds, **options))
    images = request.images if request.images is not None else way[-1].float() / 127.5 - 1
    forward = frames_u8(module.noised(replace(request, images=images), seeds=seeds, frames=FILM_COLUMNS))
    chosen = [round(i * (len(way) - 1) / (FILM_COLUMNS - 1)) for i in range(FILM_COLUMNS)]
    rows = [forward[:, 0], *(part[chosen, i] for i in range(request.n) for part in (way, estimates))]
    kinds = ["adding noise", *(f"{kind}, seed {seed}" for seed in seeds for kind in ("x_t", "x_0_hat"))]
    names = [name for kind in kinds for name in (kind, *[""] * (FILM_COLUMNS - 1))]
    strip = captioned_grid(torch.cat(rows), names, columns=FILM_COLUMNS)
    moments = [(noisy, forward[0]) for noisy in forward] + list(zip(way, estimates))
    frames = tuple(captioned_grid(torch.cat(pair), columns=request.n) for pair in moments)
    return TaskPictures(way[-1], strip, {}, frames)


def frames_u8(images: Tensor) -> Tensor:
    """(K, n, C, H, W) in [-1, 1] as uint8."""
    return to_uint8(images.flatten(0, 1).float().cpu()).unflatten(0, images.shape[:2])
