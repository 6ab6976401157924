"""Ways of spoiling images, as functions of uint8 (N, C, H, W), and the sets whose order every metric must get right."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def blur(image_u8: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels."""
    radius = int(np.ceil(4 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = (-(x**2) / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    n, c, h, w = image_u8.shape
    flat = image_u8.double().view(n * c, 1, h, w)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3))
    return to_bytes(flat).view(n, c, h, w)


def noise(image_u8: Tensor, std: float) -> Tensor:
    """Gaussian noise, its standard deviation a share of the range."""
    return to_bytes(image_u8 + 255 * std * torch.randn(image_u8.shape, generator=generator()))


def salt_and_pepper(image_u8: Tensor, share: float) -> Tensor:
    """A share of the pixels becomes black or white, half of it each."""
    draw = torch.rand(image_u8.shape, generator=generator())
    return torch.where(draw < share / 2, 0, torch.where(draw < share, 255, image_u8)).to(torch.uint8)


def jpeg(image_u8: Tensor, quality: int) -> Tensor:
    """Through a JPEG file of this quality."""
    found = []
    for image in image_u8:
        array, file = image.permute(1, 2, 0).numpy(), io.BytesIO()
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "JPEG", quality=quality)
        read = np.asarray(Image.open(file))
        found.append(torch.from_numpy(read.copy()).view(*array.shape).permute(2, 0, 1))
    return torch.stack(found)


def low_bits(image_u8: Tensor, bits: int) -> Tensor:
    """The lowest bits set to 0."""
    return image_u8 & (256 - 2**bits)


def shift(image_u8: Tensor, pixels: int) -> Tensor:
    """To the right, black from the left."""
    return F.pad(image_u8, (pixels, 0))[..., : image_u8.shape[-1]]


def invert(image_u8: Tensor) -> Tensor:
    """Black for white."""
    return 255 - image_u8


def generator() -> torch.Generator:
    """The same noise in every run."""
    return torch.Generator().manual_seed(0)


def to_bytes(x: Tensor) -> Tensor:
    """Clamped and rounded to uint8."""
    return x.clamp(0, 255).round().to(torch.uint8)


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, C, H, W) with labels (N,): two halves that share no image, and the test images."""

    a: tuple[Tensor, Tensor]
    b: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def reference(self, n: int) -> Tensor:
        """n images of half A, as many of each class."""
        return balanced(*self.a, n)


def balanced(image_u8: Tensor, labels: Tensor, n: int, num_classes: int | None = None) -> Tensor:
    """n images in turn of the first `num_classes` classes (None: all), as many of each as n allows.

    Raises: ValueError if a class has too few images.
    """
    classes = labels.unique().tolist()[:num_classes]
    each = -(-n // len(classes))
    rows = [(labels == label).nonzero().flatten()[:each] for label in classes]
    if min(map(len, rows)) < each:
        least = min(map(len, rows))
        raise ValueError(f"n={n} needs {each} images of each of {len(classes)} classes, and one has {least}")
    return image_u8[torch.stack(rows, 1).flatten()[:n]]


BLUR, NOISE, SALT = (0.5, 1, 1.5, 2, 3), (0.05, 0.1, 0.2, 0.4), (0.01, 0.05, 0.2)
JPEG, CLASSES, COPIES = (90, 50, 20, 10), (8, 5, 1), 10


def image_sets(data: Labelled, n: int) -> dict[str, Callable[[], Tensor]]:
    """Name -> a function that gives n images; everything but `test` is made of half B."""
    b = balanced(*data.b, n)
    sets: dict[str, Callable[[], Tensor]] = {"B": lambda: b, "test": lambda: balanced(*data.test, n)}
    sets |= {f"blur {s:g}": partial(blur, b, s) for s in BLUR}
    sets |= {f"noise {s:g}": partial(noise, b, s) for s in NOISE}
    sets |= {f"salt and pepper {s:g}": partial(salt_and_pepper, b, s) for s in SALT}
    sets |= {f"JPEG {q}": partial(jpeg, b, q) for q in JPEG}
    sets |= {"low 2 bits off": partial(low_bits, b, 2), "shift 3": partial(shift, b, 3), "inverted": partial(invert, b)}
    sets |= {f"{k} of 10 classes": partial(balanced, *data.b, n, k) for k in CLASSES}
    sets["copies x10"] = lambda: b[: max(1, n // COPIES)].repeat(COPIES, 1, 1, 1)[:n]
    sets["uniform noise"] = lambda: torch.randint(0, 256, b.shape, generator=generator(), dtype=torch.uint8)
    return sets


# Chains of growing damage, by family; a distance must grow along each.
CHAINS: tuple[tuple[str, ...], ...] = (
    ("B", *(f"blur {s:g}" for s in BLUR), "uniform noise"),
    ("B", *(f"noise {s:g}" for s in NOISE), "uniform noise"),
    ("B", *(f"salt and pepper {s:g}" for s in SALT), "uniform noise"),
    ("B", *(f"JPEG {q}" for q in JPEG), "uniform noise"),
    ("B", *(f"{k} of 10 classes" for k in CLASSES), "uniform noise"),
    ("B", "shift 3", "inverted", "uniform noise"),
    ("B", "copies x10", "uniform noise"),
)
