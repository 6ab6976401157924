"""A small convolutional classifier whose last features are there to be used."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ConvClassifier(nn.Module):
    """Images to class scores through one feature vector: residual convolutions at halved resolutions, then a mean.

    Group instead of batch normalisation: an image's features do not depend on its batch, and averaged weights need no
    statistics of their own.

    Args:
        channels: of the images.
        num_classes: scores given.
        dims: channels at each resolution; the first is at half the image's, each further one halves again.
        dropout: of features, in training.
    Raises: ValueError where the data has no classes.
    Source: He et al. 2016 (residual blocks); Wu and He 2018 (group normalisation)
    """

    def __init__(
        self, channels: int, num_classes: int | None, dims: tuple[int, ...] = (32, 64, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        if not num_classes:
            raise ValueError("a classifier needs data with classes: data=fashion_mnist, mnist, cifar10 or cifar100")
        dims = tuple(dims)
        self.feature_dim = dims[-1]
        self.stem = nn.Conv2d(channels, dims[0], 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip((dims[0], *dims), dims))
        self.norm = nn.GroupNorm(8, dims[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dims[-1], num_classes)

    def features(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, feature_dim), what the class scores are linear in."""
        x = self.stem(image)  # (B, dims[0], H/2, W/2)
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else F.avg_pool2d(x, 2, ceil_mode=True))  # (B, dims[i], H/2^(i+1), W/2^(i+1))
        return F.silu(self.norm(x)).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> class scores (B, num_classes)."""
        return self.head(self.dropout(self.features(image)))


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), with a 1 x 1 convolution where the channels change."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(8, dim_in), nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.norm_2, self.conv_2 = nn.GroupNorm(8, dim_out), nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()
        nn.init.zeros_(self.conv_2.weight)  # every block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        return self.skip(x) + self.conv_2(F.silu(self.norm_2(h)))
