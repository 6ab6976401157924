"""Generators and discriminators: fully connected for points in the plane, DCGAN for images, and what others share.

Every generator here is `forward(z (B, latent_dim), label (B,) | None) -> (B, C, S, S)` in [-1, 1]. Every discriminator
is `forward(image, label | None) -> (B,)` logits. Its attribute `batch_norm` says whether a score depends on the other
images of the batch; penalties on its slope need scores that do not.

Batch normalisation keeps running statistics in buffers and uses them in eval mode. Images must be drawn in eval mode:
otherwise an image depends on its batch, and drawing changes the statistics. Averaged weights need averaged statistics;
those of the live generator do not fit them. With several processes each one normalises its own share of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from networks.autoencoder import check_latent_dim, check_positive, checked_dims, sides
from networks.resample import Upsample, equal_sub_pixels

NORMS = ("batch", "layer", "none")
SLOPE = 0.2  # of every leaky ReLU


class MLPGenerator(nn.Module):
    """Noise to points, or to images of any size, through fully connected layers.

    Points in the plane are images of two channels and one pixel, (B, 2, 1, 1), so that all code for images works on
    them. The data must lie in [-1, 1].

    Args:
        image_size, channels: of the data; 1 and 2 for points.
        latent_dim: numbers of noise per image.
        hidden: widths of the hidden layers.
        num_classes: of the data; a class is learned numbers beside the noise, as many as there are of noise.
    Raises: ValueError for a size below 1.
    Source: Goodfellow et al. 2014; Mirza and Osindero 2014 (classes)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        hidden: Sequence[int] = (128, 128, 128),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        check_positive(image_size=image_size, channels=channels)
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.shape = (channels, image_size, image_size)
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.body, width = leaky_layers(latent_dim * (2 if num_classes else 1), hidden)
        self.head = nn.Linear(width, channels * image_size**2)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise (B, latent_dim) and classes (B,) -> (B, channels, S, S) in [-1, 1]."""
        check_label(label, self.num_classes)
        x = z if self.embedding is None else torch.cat([z, self.embedding(label)], 1)
        return self.head(self.body(x)).tanh().unflatten(1, self.shape)


class MLPDiscriminator(nn.Module):
    """Points, or images, to logits through fully connected layers.

    Args:
        image_size, channels: of the data; 1 and 2 for points.
        hidden: widths of the hidden layers; () is linear.
        num_classes: of the data; a class enters by projection.
    Raises: ValueError for a size below 1.
    Source: Goodfellow et al. 2014; Miyato and Koyama 2018 (classes)
    """

    batch_norm = False

    def __init__(
        self, image_size: int, channels: int, hidden: Sequence[int] = (128, 128, 128), num_classes: int | None = None
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels)
        self.num_classes = num_classes
        self.body, width = leaky_layers(channels * image_size**2, hidden)
        self.head = ProjectionHead(width, num_classes)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, channels, S, S) and classes (B,) -> logits (B,)."""
        return self.head(self.body(image.flatten(1)), label)


class GrowingGenerator(nn.Module):
    """How convolutional generators begin: noise through one linear layer to maps of the smallest resolution.

    Args: as of `DCGANGenerator`; bias: of the linear layer.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        dims: Sequence[int],
        num_classes: int | None,
        bias: bool,
    ) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        check_positive(image_size=image_size, channels=channels)
        self.dims, self.latent_dim, self.num_classes = checked_dims(dims), latent_dim, num_classes
        side, *self.sides = sides(image_size, len(self.dims))[::-1]
        self.shape = (self.dims[0], side, side)
        self.stem = nn.Linear(latent_dim, self.dims[0] * side**2, bias=bias)

    def begin(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Noise (B, latent_dim) -> (B, dims[0], s, s), once the classes are as the net wants them."""
        check_label(label, self.num_classes)
        return self.stem(z).unflatten(1, self.shape)


class DCGANGenerator(GrowingGenerator):
    """Noise to images by one linear layer and steps that double the resolution, batches normalised between them.

    Args:
        image_size, channels: of the data; any size: 4, 7, 14, 28 are the resolutions for 28.
        latent_dim: numbers of noise per image.
        dims: channels from the smallest resolution upwards.
        upsample: one of ``networks.resample.UPSAMPLE_KINDS``.
        num_classes: of the data; a class sets scale and shift of every normalisation.
    Raises: ValueError for a size below 1, no ``dims``, or an unknown ``upsample``.
    Source: Radford et al. 2016, section 3; de Vries et al. 2017 (conditional batch norm)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        dims: Sequence[int] = (256, 128, 64),
        upsample: str = "transposed",
        num_classes: int | None = None,
    ) -> None:
        super().__init__(image_size, channels, latent_dim, dims, num_classes, bias=False)
        self.norms = nn.ModuleList(ConditionalBatchNorm(dim, num_classes) for dim in self.dims)
        self.up = nn.ModuleList(Upsample(a, b, upsample) for a, b in zip(self.dims, (*self.dims[1:], channels)))
        for up in self.up[:-1]:
            up.conv.register_parameter("bias", None)  # batch norm would subtract it
        initialise(self, lambda weight: nn.init.normal_(weight, std=0.02))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise (B, latent_dim) and classes (B,) -> (B, channels, S, S) in [-1, 1]."""
        x = self.begin(z, label)
        for norm, up, side in zip(self.norms, self.up, self.sides):
            x = up(F.relu(norm(x, label)))[..., :side, :side]
        return x.tanh()


class DCGANDiscriminator(nn.Module):
    """Images to logits by strided convolutions and one linear layer.

    Args:
        image_size, channels: of the data; any size, halved and rounded up at each step.
        dims: channels at S/2, S/4, ...
        spectral: divide every weight by its largest singular value (one power iteration per forward in training, none
            in eval mode).
        norm: of all but the first convolution's maps: ``batch``, ``layer`` (each image alone, for gradient penalties)
            or ``none``.
        num_classes: of the data; a class enters by projection.
    Raises: ValueError for a size below 1, no ``dims``, or an unknown ``norm``.
    Source: Radford et al. 2016, section 3; Miyato et al. 2018 (spectral norm); Miyato and Koyama 2018 (classes)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        dims: Sequence[int] = (64, 128, 256),
        spectral: bool = False,
        norm: str = "batch",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels)
        dims = checked_dims(dims)
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is not known: choose one of {', '.join(NORMS)}")
        self.batch_norm = norm == "batch" and len(dims) > 1
        self.num_classes = num_classes
        make_norm = {"batch": nn.BatchNorm2d, "layer": lambda dim: nn.GroupNorm(1, dim), "none": nn.Identity}[norm]
        side = sides(image_size, len(dims))[-1]
        # the kernel is a multiple of the stride, so that every pixel gets as much gradient as its neighbour
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip((channels, *dims), dims))
        self.norms = nn.ModuleList(make_norm(dim) if i else nn.Identity() for i, dim in enumerate(dims))
        if norm == "batch":
            for down in self.down[1:]:
                down.register_parameter("bias", None)  # batch norm would subtract it
        self.head = ProjectionHead(dims[-1] * side**2, num_classes)
        initialise(self, lambda weight: nn.init.normal_(weight, std=0.02))
        if spectral:
            spectral_normalise(self)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, channels, S, S) and classes (B,) -> logits (B,)."""
        x = image
        for down, norm in zip(self.down, self.norms):
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))  # rounds up
            x = F.leaky_relu(norm(down(x)), SLOPE)  # (B, dims[i], S/2^(i+1), S/2^(i+1))
        return self.head(x.flatten(1), label)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a scale and a shift per class; plain batch normalisation where there are no classes.

    Source: de Vries et al. 2017; Dumoulin et al. 2017
    """

    def __init__(self, dim: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim, affine=not num_classes)
        self.scale = nn.Embedding(num_classes, dim) if num_classes else None
        self.shift = nn.Embedding(num_classes, dim) if num_classes else None
        if num_classes:
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, dim, H, W) and classes (B,) -> (B, dim, H, W)."""
        x = self.norm(x)
        if self.scale is None:
            return x
        return x * self.scale(label)[..., None, None] + self.shift(label)[..., None, None]


class ProjectionHead(nn.Module):
    """Features to logits: linear, plus their product with a learned vector of the class where there are classes.

    Source: Miyato and Koyama 2018, eq. 3
    """

    def __init__(self, dim: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(dim, 1)
        self.embedding = nn.Embedding(num_classes, dim) if num_classes else None

    def forward(self, features: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, dim) and classes (B,) -> (B,)."""
        check_label(label, self.num_classes)
        score = self.linear(features).squeeze(1)
        return score if self.embedding is None else score + (self.embedding(label) * features).sum(1)


def initialise(net: nn.Module, weight_init: Callable[[Tensor], object]) -> None:
    """Weights of convolutions, linear layers and projected classes by `weight_init(weight)`, biases zero."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            weight_init(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, ProjectionHead) and module.embedding is not None:
            weight_init(module.embedding.weight)
    for module in net.modules():
        if isinstance(module, Upsample) and module.kind == "pixel_shuffle":
            equal_sub_pixels(module.conv)


def spectral_normalise(net: nn.Module) -> None:
    """Put every weight of `net` under spectral norm: convolutions, linear layers, embeddings."""
    for module in list(net.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            spectral_norm(module)


def leaky_layers(dim_in: int, hidden: Sequence[int]) -> tuple[nn.Sequential, int]:
    """Linear layers, a leaky ReLU after each, and the width of what they give."""
    check_positive(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    widths = (dim_in, *hidden)
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), nn.LeakyReLU(SLOPE))]
    return nn.Sequential(*layers), widths[-1]


def check_label(label: Tensor | None, num_classes: int | None) -> None:
    """Raises ValueError where a net with classes gets no labels, or one without gets some."""
    if num_classes and label is None:
        raise ValueError(f"num_classes={num_classes}: this network needs the class of each image, and got none")
    if label is not None and not num_classes:
        raise ValueError(f"num_classes={num_classes}: this network knows no classes, and got labels")
