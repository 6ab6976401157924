"""Pictures of a latent space: images between two latents, and latents scaled towards their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contracts import HasLatents, Request, label_tensor
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid

STEPS = 8  # images from one latent to the other
TRUNCATIONS = (0.3, 0.5, 0.7, 1.0)


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Latents (B, T, d) at t (T,) in [0, 1] on the arcs from start to end (B, d), their lengths between those of the two.

    Normal latents of many dimensions are all about sqrt(d) long. A straight line passes through shorter ones, which a
    generator has hardly seen; the arc does not. Latents of one direction or of opposite ones are joined straight.

    Source: Shoemake 1985, section 3.3; White 2016 (Sampling Generative Networks), for latents
    """
    angle = torch.acos(torch.cosine_similarity(start, end, dim=-1).clamp(-1, 1))[:, None]  # (B, 1)
    sine = angle.sin()
    straight = sine.abs() < 1e-6
    safe = torch.where(straight, 1.0, sine)
    of_start = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / safe)  # (B, T)
    of_end = torch.where(straight, t.expand_as(of_start), torch.sin(t * angle) / safe)
    return of_start[..., None] * start[:, None] + of_end[..., None] * end[:, None]


def straight(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Latents (B, T, d) at t (T,) in [0, 1] on the straight lines from start to end (B, d)."""
    return torch.lerp(start[:, None], end[:, None], t[:, None])


def interpolation(module: HasLatents, request: Request, seed: int) -> Image.Image:
    """Two rows for each of n pairs of latents: images on the arc between them, and below on the straight line.

    Pair i has the latents of the seeds `seed` + 2i and `seed` + 2i + 1.

    Args:
        request: of the n pairs; its labels where the model draws from classes.
    """
    n, t = request.n, torch.linspace(0, 1, STEPS, device=module.device)
    start, end = (module.latents([seed + 2 * i + k for i in range(n)]) for k in (0, 1))
    z = torch.stack([slerp(start, end, t), straight(start, end, t)], 1)  # (n, 2, T, d)
    label = classes(module, request, torch.arange(n).repeat_interleave(2 * STEPS))
    names = [[f"{kind}, {seed + 2 * i} to {seed + 2 * i + 1}", *[""] * (STEPS - 1)]
             for i in range(n) for kind in ("arc", "line")]  # fmt: skip
    return captioned_grid(drawn(module, z.flatten(0, 2), label), sum(names, []), columns=STEPS)


def truncation(module: HasLatents, request: Request, seed: int) -> Image.Image:
    """A row for each truncation, which is a factor on the latents. All rows have the same n latents, of the seeds from `seed` on.

    Args: as of `interpolation`.
    Source: Brock et al. 2019 (BigGAN), section 3.1; Karras et al. 2019 (StyleGAN), appendix B, for the factor
    """
    n, factors = request.n, torch.tensor(TRUNCATIONS, device=module.device)
    z = factors[:, None, None] * module.latents([seed + i for i in range(n)])  # (K, n, d)
    label = classes(module, request, torch.arange(n).repeat(len(factors)))
    names = [[f"truncation {factor:g}", *[""] * (n - 1)] for factor in TRUNCATIONS]
    return captioned_grid(drawn(module, z.flatten(0, 1), label), sum(names, []), columns=n)


SHEETS: dict[str, Callable[[Any, Request, int], Image.Image]] = {
    "interpolation": interpolation, "truncation": truncation,
}  # fmt: skip


def check_sheet(sheet: str, module: Any, asked: str = "") -> None:
    """Raises ValueError for an unknown sheet, and for a model without latents to show.

    Args:
        asked: what was typed, for the message; empty is `sheet=…`.
    """
    if sheet not in SHEETS:
        raise ValueError(f"sheet={sheet}: choose one of {', '.join(SHEETS)}")
    if not isinstance(module, HasLatents):
        raise ValueError(f"{asked or f'sheet={sheet}'}: this model draws from no latents of a known distribution; a GAN or a VAE does")


def classes(module: Any, request: Request, index: Tensor) -> Tensor | None:
    """The class of each image, by the number of its entry in the request; None for a model without classes.

    Raises: ValueError for a class that the model does not know.
    """
    if module.conditioning != "label":
        return None
    known = module.example_request().labels
    if unknown := [c for c in request.labels if c not in known]:
        raise ValueError(f"label={unknown[0]}: the model knows the classes {known[0]} to {known[-1]}")
    return label_tensor(request.labels, module.device)[0][index.to(module.device)]


def drawn(module: Any, z: Tensor, label: Tensor | None, at_once: int = 64) -> Tensor:
    """uint8 (B, C, S, S) of latents (B, d)."""
    labels = [None] * len(z.split(at_once)) if label is None else label.split(at_once)
    with torch.inference_mode():
        return torch.cat([to_uint8(module.generate(*part).cpu()) for part in zip(z.split(at_once), labels)])
