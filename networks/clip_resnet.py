"""CLIP's residual network: a stem of three convolutions, averaging before each halving, attention in place of the last mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNetTower(nn.Module):
    """Images to vectors; names as open_clip has them.

    Args:
        embed_dim: of the space shared with captions.
        image_size: pixels, a multiple of 32.
        width: channels behind the stem.
        layers: blocks at each of four resolutions.
        heads: of the attention that pools; divides 32 * width.
    Source: Radford et al. 2021, section 2.4; He et al. 2019 (stem); Zhang 2019 (averaging before halving)
    """

    def __init__(
        self, embed_dim: int, image_size: int, width: int = 64, layers: tuple[int, ...] = (3, 4, 6, 3), heads: int = 32, channels: int = 3
    ) -> None:
        super().__init__()
        if image_size % 32:
            raise ValueError(f"image_size={image_size} is not a multiple of 32")
        self.conv1, self.bn1 = nn.Conv2d(channels, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        dim = width
        for i, count in enumerate(layers):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            blocks = [Bottleneck(dim, planes, stride), *(Bottleneck(4 * planes, planes, 1) for _ in range(count - 1))]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            dim = 4 * planes
        self.stages = len(layers)
        self.attnpool = AttentionPool((image_size // 2 ** (self.stages + 1)) ** 2, dim, heads, embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, embed_dim), not normalised."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.attnpool(x)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution beside a shortcut; a halving averages, in both."""

    def __init__(self, dim: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(dim, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.stride, self.downsample = stride, None
        if stride > 1 or dim != 4 * planes:
            self.downsample = nn.Sequential(nn.Conv2d(dim, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes))
        nn.init.zeros_(self.bn3.weight)  # a new block is its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, 4 planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        if self.stride > 1:
            out, x = F.avg_pool2d(out, self.stride), F.avg_pool2d(x, self.stride)
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class AttentionPool(nn.Module):
    """The mean of all places asks all places, with heads, what the image's vector is."""

    def __init__(self, places: int, dim: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads={heads} does not divide the width {dim} of the attention that pools")
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, dim) / dim**0.5)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.c_proj = nn.Linear(dim, embed_dim)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, embed_dim)."""
        x = x.flatten(2).transpose(1, 2)  # (B, H W, dim)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1) + self.positional_embedding

        def of_heads(y: Tensor) -> Tensor:
            return y.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, dim / heads)

        out = F.scaled_dot_product_attention(of_heads(self.q_proj(x[:, :1])), of_heads(self.k_proj(x)), of_heads(self.v_proj(x)))
        return self.c_proj(out.transpose(1, 2).flatten(1))  # one query: (B, 1, heads, dim / heads) -> (B, dim)
