"""The residual pair of spectrally normalised GANs, with projected classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from networks.autoencoder import check_positive, checked_dims
from networks.gan import ConditionalBatchNorm, GrowingGenerator, ProjectionHead, initialise, spectral_normalise
from networks.resample import Upsample, mean_of_4

xavier = nn.init.xavier_uniform_


class ResidualGenerator(GrowingGenerator):
    """Noise to images by one linear layer and residual blocks that double the resolution, batches normalised.

    Args:
        image_size, channels: of the data; any size: 4, 7, 14, 28 are the resolutions for 28.
        latent_dim: numbers of noise per image.
        dims: channels of each block's maps, from the smallest resolution upwards; the paper has 256 everywhere.
        upsample: one of ``networks.resample.UPSAMPLE_KINDS``; the paper's is ``repetition``.
        num_classes: of the data; a class sets scale and shift of the blocks' normalisations.
    Raises: ValueError for a size below 1, no ``dims``, or an unknown ``upsample``.
    Source: Miyato et al. 2018, table 4; Miyato and Koyama 2018 (classes)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        latent_dim: int,
        dims: Sequence[int] = (128, 128, 128),
        upsample: str = "repetition",
        num_classes: int | None = None,
    ) -> None:
        super().__init__(image_size, channels, latent_dim, dims, num_classes, bias=True)
        dims = self.dims
        self.blocks = nn.ModuleList(UpBlock(a, b, upsample, num_classes) for a, b in zip((dims[0], *dims), dims))
        self.norm = nn.BatchNorm2d(dims[-1])
        self.to_image = nn.Conv2d(dims[-1], channels, 3, padding=1)
        initialise_residual(self, self.blocks)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Noise (B, latent_dim) and classes (B,) -> (B, channels, S, S) in [-1, 1]."""
        x = self.begin(z, label)
        for block, side in zip(self.blocks, self.sides):
            x = block(x, label)[..., :side, :side]
        return self.to_image(F.relu(self.norm(x))).tanh()


class ResidualDiscriminator(nn.Module):
    """Images to logits by residual blocks under spectral norm; features are summed over the last maps' places.

    Args:
        image_size, channels: of the data; any size.
        dims: channels at S/2, S/4, ...; the paper has 128 twice.
        num_res_blocks: further blocks at the last resolution.
        spectral: divide every weight by its largest singular value (one power iteration per forward in training, none
            in eval mode); without it, a residual critic for gradient penalties.
        num_classes: of the data; a class enters by projection.
    Raises: ValueError for a size below 1 or no ``dims``.
    Source: Miyato et al. 2018, table 4; Miyato and Koyama 2018 (classes)
    """

    batch_norm = False

    def __init__(
        self,
        image_size: int,
        channels: int,
        dims: Sequence[int] = (128, 128),
        num_res_blocks: int = 2,
        spectral: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels)
        dims = checked_dims(dims)
        self.num_classes = num_classes
        down = [DownBlock(a, b, first=i == 0) for i, (a, b) in enumerate(zip((channels, *dims), dims))]
        flat = [DownBlock(dims[-1], dims[-1], halve=False) for _ in range(num_res_blocks)]
        self.blocks = nn.ModuleList(down + flat)
        self.head = ProjectionHead(dims[-1], num_classes)
        initialise_residual(self, self.blocks)
        if spectral:
            spectral_normalise(self)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, channels, S, S) and classes (B,) -> logits (B,)."""
        x = image
        for block in self.blocks:
            x = block(x)  # (B, dims[i], S/2^(i+1), S/2^(i+1))
        return self.head(F.relu(x).sum((2, 3)), label)


class UpBlock(nn.Module):
    """enlarge(skip(x)) + conv(act(norm(enlarging conv(act(norm(x)))))), at twice the resolution."""

    def __init__(self, dim_in: int, dim_out: int, upsample: str, num_classes: int | None) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = ConditionalBatchNorm(dim_in, num_classes), ConditionalBatchNorm(dim_out, num_classes)
        self.conv_1 = Upsample(dim_in, dim_out, upsample)
        self.conv_1.conv.register_parameter("bias", None)  # batch norm would subtract it
        self.conv_2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Conv2d(dim_in, dim_out, 1)
        self.mode = "bilinear" if upsample == "bilinear" else "nearest"

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        h = self.conv_1(F.relu(self.norm_1(x, label)))
        h = self.conv_2(F.relu(self.norm_2(h, label)))
        return F.interpolate(self.skip(x), scale_factor=2, mode=self.mode) + h


class DownBlock(nn.Module):
    """skip(x) + conv(act(conv(act(x)))), then at half the resolution, rounded up; `first` has pixels, not features."""

    def __init__(self, dim_in: int, dim_out: int, *, first: bool = False, halve: bool = True) -> None:
        super().__init__()
        self.first, self.halve = first, halve
        self.conv_1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.conv_2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if halve or dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_2(F.relu(self.conv_1(x if self.first else F.relu(x))))
        if not self.halve:
            return self.skip(x) + h
        return self.skip(mean_of_4(x)) + mean_of_4(h)  # the mean first: it commutes with the 1 x 1 convolution


def initialise_residual(net: nn.Module, blocks: nn.ModuleList) -> None:
    """Glorot's uniform weights, with a gain of sqrt 2 on the convolutions around which the blocks skip; biases zero."""
    initialise(net, xavier)
    for block in blocks:
        for conv in (block.conv_1, block.conv_2):
            initialise(conv, partial(xavier, gain=math.sqrt(2)))
