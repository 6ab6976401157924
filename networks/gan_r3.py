"""The pair of R3GAN: residual bottlenecks with grouped convolutions, and no normalisation anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.autoencoder import check_latent_dim, check_positive, checked_dims, sides
from networks.gan import SLOPE, check_label
from networks.resample import mean_of_4

EXPANSION = 2  # a bottleneck widens its channels by this factor
ACTIVATION_GAIN = math.sqrt(2 / (1 + SLOPE**2))


class R3Generator(nn.Module):
    """Noise to images: weights on learned 4 x 4 maps, then stages of bottlenecks, enlarged bilinearly in between.

    It ends with a tanh, like the other generators here; the paper's has none.

    Args:
        image_size, channels: of the data; any size: 4, 7, 14, 28 are the resolutions for 28.
        latent_dim: numbers of noise per image; the paper has 64.
        dims: channels of each stage from the smallest resolution upwards, the image's own last; the paper has 768 at
            4, 8, 16, 32.
        num_res_blocks: bottlenecks per stage; the paper has 2.
        group_width: channels per group of the grouped convolution; must divide 2 x dims. The paper has 16.
        num_classes: of the data; a class is learned numbers beside the noise, as many as there are of noise.
    Raises: ValueError for a size below 1, no ``dims``, or a ``group_width`` that does not divide.
    Source: Huang et al. 2024 (R3GAN), section 3 and appendix; Zhang et al. 2019 (Fixup)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        dims: Sequence[int] = (128, 128, 64, 32),
        num_res_blocks: int = 1,
        group_width: int = 16,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        check_positive(image_size=image_size, channels=channels, num_res_blocks=num_res_blocks, group_width=group_width)
        dims = checked_dims(dims)
        self.latent_dim, self.num_classes = latent_dim, num_classes
        self.sides = sides(image_size, len(dims) - 1)[::-1]
        self.embedding = class_embedding(num_classes, latent_dim) if num_classes else None
        self.stem = scaled(nn.Linear(latent_dim * (2 if num_classes else 1), dims[0], bias=False))
        self.basis = nn.Parameter(torch.randn(dims[0], self.sides[0], self.sides[0]))
        self.resize = nn.ModuleList(change(a, b) for a, b in zip((dims[0], *dims), dims))
        self.stages = stages(dims, num_res_blocks, group_width)
        self.to_image = scaled(nn.Conv2d(dims[-1], channels, 1, bias=False))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise (B, latent_dim) and classes (B,) -> (B, channels, S, S) in [-1, 1]."""
        check_label(label, self.num_classes)
        x = z if self.embedding is None else torch.cat([z, self.embedding(label)], 1)
        x = self.stem(x)[..., None, None] * self.basis  # (B, dims[0], s, s)
        for i, (resize, stage, side) in enumerate(zip(self.resize, self.stages, self.sides)):
            x = resize(x)
            if i:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")[..., :side, :side]
            x = stage(x)  # (B, dims[i], sides[i], sides[i])
        return self.to_image(x).tanh()


class R3Discriminator(nn.Module):
    """Images to logits: the generator's mirror, down to a learned 4 x 4 map per channel.

    Args:
        image_size, channels: of the data; any size.
        dims: channels of each stage from the image's own resolution downwards.
        num_res_blocks, group_width: as the generator's.
        num_classes: of the data; the logit is then a product with a learned vector of the class.
        embedding_dim: of these vectors.
    Raises: ValueError for a size below 1, no ``dims``, or a ``group_width`` that does not divide.
    Source: Huang et al. 2024 (R3GAN), section 3 and appendix; Zhang et al. 2019 (Fixup)
    """

    batch_norm = False

    def __init__(
        self,
        image_size: int,
        channels: int,
        dims: Sequence[int] = (32, 64, 128, 128),
        num_res_blocks: int = 1,
        group_width: int = 16,
        num_classes: int | None = None,
        embedding_dim: int = 64,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels, num_res_blocks=num_res_blocks, group_width=group_width)
        dims = checked_dims(dims)
        self.num_classes = num_classes
        side = sides(image_size, len(dims) - 1)[-1]
        self.from_image = scaled(nn.Conv2d(channels, dims[0], 1, bias=False))
        self.stages = stages(dims, num_res_blocks, group_width)
        self.resize = nn.ModuleList(change(a, b) for a, b in zip(dims, (*dims[1:], dims[-1])))
        self.basis = scaled(nn.Conv2d(dims[-1], dims[-1], side, groups=dims[-1], bias=False))
        self.embedding = class_embedding(num_classes, embedding_dim) if num_classes else None
        self.head = scaled(nn.Linear(dims[-1], embedding_dim if num_classes else 1, bias=False))

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, channels, S, S) and classes (B,) -> logits (B,)."""
        check_label(label, self.num_classes)
        x = self.from_image(image)
        for i, (stage, resize) in enumerate(zip(self.stages, self.resize)):
            x = stage(x)  # (B, dims[i], S/2^i, S/2^i)
            x = resize(mean_of_4(x)) if i + 1 < len(self.stages) else x
        x = self.head(self.basis(x).flatten(1))
        return (x if self.embedding is None else x * self.embedding(label)).sum(1)


class Bottleneck(nn.Module):
    """x + project(act(grouped(act(expand(x))))), the identity at first.

    The more blocks the net has, the smaller the initial weights, so that activations do not grow with depth.

    Source: Zhang et al. 2019 (Fixup), section 3
    """

    def __init__(self, dim: int, group_width: int, num_blocks: int) -> None:
        super().__init__()
        widened = EXPANSION * dim
        if widened % group_width:
            raise ValueError(f"group_width={group_width} must divide {EXPANSION} x dims: {widened} is no multiple of it")
        gain = ACTIVATION_GAIN * num_blocks ** (-1 / 4)  # 1 / (2m - 2) for m = 3 layers
        self.expand = scaled(nn.Conv2d(dim, widened, 1), gain)
        self.grouped = scaled(nn.Conv2d(widened, widened, 3, padding=1, groups=widened // group_width), gain)
        self.project = scaled(nn.Conv2d(widened, dim, 1, bias=False), 0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.expand(x), SLOPE)
        return x + self.project(F.leaky_relu(self.grouped(h), SLOPE))


def stages(dims: Sequence[int], num_res_blocks: int, group_width: int) -> nn.ModuleList:
    """Bottlenecks of each resolution."""
    total = len(dims) * num_res_blocks
    return nn.ModuleList(
        nn.Sequential(*(Bottleneck(dim, group_width, total) for _ in range(num_res_blocks))) for dim in dims
    )


def change(dim_in: int, dim_out: int) -> nn.Module:
    """A 1 x 1 convolution where the channels change."""
    return nn.Identity() if dim_in == dim_out else scaled(nn.Conv2d(dim_in, dim_out, 1, bias=False))


def scaled(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Linear | nn.Conv2d:
    """The layer with weights N(0, gain^2 / fan_in), so that maps keep their variance times gain^2, and biases zero."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def class_embedding(num_classes: int, dim: int) -> nn.Embedding:
    """What `scaled` gives for a linear layer of one-hot classes."""
    table = nn.Embedding(num_classes, dim)
    nn.init.normal_(table.weight, std=1 / math.sqrt(num_classes))
    return table
