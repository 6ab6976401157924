"""Encoders and decoders between images and vectors: fully connected, convolutional, residual."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from networks.classifier import ResidualBlock
from networks.resample import Upsample, downsample

GROUPS = 8  # of every group normalisation; channels are a multiple


class MLPEncoder(nn.Module):
    """(B, channels, S, S) -> (B, out_dim) through fully connected layers with SiLU between them.

    Args:
        image_size, channels: of the data.
        out_dim: numbers per image; a variational encoder gives 2 x latent_dim.
        hidden: widths of the hidden layers; () is linear.
    Raises: ValueError for a size below 1.
    """

    def __init__(self, image_size: int, channels: int, out_dim: int, hidden: Sequence[int] = (512,)) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels, out_dim=out_dim)
        self.net = mlp(channels * image_size**2, hidden, out_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels, S, S) in [-1, 1] -> (B, out_dim), unbounded."""
        return self.net(image.flatten(1))


class MLPDecoder(nn.Module):
    """(B, latent_dim) -> (B, out_channels, S, S) through fully connected layers with SiLU between them.

    With ``hidden=()`` on both sides and squared errors, the best autoencoder spans the first principal components.

    Args:
        image_size: of the data.
        out_channels: those of the image, or the parameters per pixel of a likelihood.
        latent_dim: numbers per image.
        hidden: widths of the hidden layers; () is linear.
    Raises: ValueError for a size below 1.
    Source: Baldi and Hornik 1989 (the linear case)
    """

    def __init__(self, image_size: int, out_channels: int, latent_dim: int, hidden: Sequence[int] = (512,)) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        check_positive(image_size=image_size, out_channels=out_channels)
        self.shape = (out_channels, image_size, image_size)
        self.net = mlp(latent_dim, hidden, out_channels * image_size**2)

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) -> (B, out_channels, S, S), unbounded."""
        return self.net(z).unflatten(1, self.shape)


class ConvEncoder(nn.Module):
    """(B, channels, S, S) -> (B, out_dim) by strided convolutions and one linear layer.

    Each resolution is half the one before, rounded up: 28, 14, 7, 4. Groups are
    normalised, not batches, so an image does not depend on its batch.

    Args:
        image_size, channels: of the data; any size.
        out_dim: numbers per image; a variational encoder gives 2 x latent_dim.
        dims: channels at S/2, S/4, ...; multiples of 8.
        num_res_blocks: residual blocks at each of these resolutions.
    Raises: ValueError for a size below 1, no ``dims``, or dims that are no multiples of 8.
    Source: Radford et al. 2016, section 3 (strides instead of pooling); Wu and He 2018 (group normalisation)
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        out_dim: int,
        dims: Sequence[int] = (32, 64, 128),
        num_res_blocks: int = 0,
    ) -> None:
        super().__init__()
        check_positive(image_size=image_size, channels=channels, out_dim=out_dim)
        dims = checked_dims(dims, GROUPS)
        side = sides(image_size, len(dims))[-1]
        self.down = nn.ModuleList(downsample(a, b) for a, b in zip((channels, *dims), dims))
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, dim) for dim in dims)
        self.blocks = nn.ModuleList(residual(dim, num_res_blocks) for dim in dims)
        self.head = nn.Linear(dims[-1] * side**2, out_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels, S, S) in [-1, 1] -> (B, out_dim), unbounded."""
        x = image
        for down, blocks, norm in zip(self.down, self.blocks, self.norms):
            x = F.silu(norm(blocks(down(x))))  # (B, dims[i], S/2^(i+1), S/2^(i+1))
        return self.head(x.flatten(1))


class ConvDecoder(nn.Module):
    """(B, latent_dim) -> (B, out_channels, S, S) by one linear layer and steps that double the resolution.

    The mirror of ``ConvEncoder``: it cuts off what the encoder rounded up. The last step makes the image, so the kind of
    upsampling shows in the pixels.

    Args:
        image_size: of the data; any size.
        out_channels: those of the image, or the parameters per pixel of a likelihood.
        latent_dim: numbers per image.
        dims: channels from the smallest resolution upwards; multiples of 8.
        num_res_blocks: residual blocks at each resolution below the image's.
        upsample: one of ``networks.resample.UPSAMPLE_KINDS``.
    Raises: ValueError for a size below 1, no ``dims``, dims that are no multiples of 8, or an unknown ``upsample``.
    Source: Radford et al. 2016, section 3
    """

    def __init__(
        self,
        image_size: int,
        out_channels: int,
        latent_dim: int,
        dims: Sequence[int] = (128, 64, 32),
        num_res_blocks: int = 0,
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        check_latent_dim(latent_dim)
        check_positive(image_size=image_size, out_channels=out_channels)
        dims = checked_dims(dims, GROUPS)
        side, *self.sides = sides(image_size, len(dims))[::-1]
        self.shape = (dims[0], side, side)
        self.stem = nn.Linear(latent_dim, dims[0] * side**2)
        self.blocks = nn.ModuleList(residual(dim, num_res_blocks) for dim in dims)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, dim) for dim in dims)
        self.up = nn.ModuleList(Upsample(a, b, upsample) for a, b in zip(dims, (*dims[1:], out_channels)))

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent_dim) -> (B, out_channels, S, S), unbounded."""
        x = self.stem(z).unflatten(1, self.shape)  # (B, dims[0], s, s)
        for blocks, norm, up, side in zip(self.blocks, self.norms, self.up, self.sides):
            x = up(F.silu(norm(blocks(x))))[..., :side, :side]
        return x


def mlp(dim_in: int, hidden: Sequence[int], dim_out: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    widths = (dim_in, *hidden)
    check_positive(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    layers = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], dim_out))


def residual(dim: int, count: int) -> nn.Sequential:
    """`count` residual blocks, each starting as the identity."""
    return nn.Sequential(*(ResidualBlock(dim, dim) for _ in range(count)))


def sides(image_size: int, halvings: int) -> list[int]:
    """The image's side and those after each halving, rounded up: sides(28, 3) == [28, 14, 7, 4]."""
    found = [image_size]
    for _ in range(halvings):
        found.append((found[-1] + 1) // 2)
    return found


def check_latent_dim(latent_dim: int) -> None:
    """Raises ValueError unless a latent has a whole number of dimensions, at least one."""
    if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
        raise ValueError(f"model.latent_dim={latent_dim!r} must be a whole number of at least 1")


def check_positive(**values: int) -> None:
    """Raises ValueError for the first value that is no whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def checked_dims(dims: Sequence[int], groups: int = 1) -> tuple[int, ...]:
    """Channels per resolution as a tuple; raises ValueError for none, one below 1, or one that `groups` do not divide."""
    if groups > 1 and (not dims or any(dim < 1 or dim % groups for dim in dims)):
        raise ValueError(f"dims={list(dims)} must be one or more multiples of {groups}, the groups of normalisation")
    if not dims:
        raise ValueError(f"dims={list(dims)} must name the channels of at least one resolution")
    check_positive(**{f"dims[{i}]": dim for i, dim in enumerate(dims)})
    return tuple(dims)
