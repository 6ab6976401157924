"""The U-Net of every diffusion stage, standard or efficient; conditions reach it as vectors, tokens and channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.attention import TransformerBlock
from networks.conditioners import LevelEmbedding
from networks.embedding import plane_waves
from networks.resample import Upsample, downsample


class ResBlock(nn.Module):
    """Two convolutions around a residual path; the embedding scales and shifts between them.

    Args:
        dim_in: channels of the input (B, dim_in, H, W).
        dim_out: channels of the output (B, dim_out, H, W).
        emb_dim: width of the embedding (B, emb_dim).
        dropout: probability of dropping a channel value before the second convolution.

    Source: Dhariwal & Nichol 2021 (ADM), section 3; scale-shift norm from Nichol & Dhariwal 2021.
    """

    def __init__(self, dim_in: int, dim_out: int, emb_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(_groups(dim_in), dim_in)
        self.conv_1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.modulation = nn.Linear(emb_dim, 2 * dim_out)
        self.norm_2 = nn.GroupNorm(_groups(dim_out), dim_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = _zero(nn.Conv2d(dim_out, dim_out, 3, padding=1))
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)  # (B, dim_out, 1, 1) each
        h = F.silu(self.norm_2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv_2(self.dropout(h))


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map (B, dim, H, W) and, where given, registers (B, R, dim); returns both."""

    def __init__(self, dim: int, **kwargs) -> None:
        super().__init__()
        self.block = TransformerBlock(dim, **kwargs)

    def forward(
        self, x: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None, registers: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        tokens = x.flatten(2).transpose(1, 2)  # (B, HW, dim); a view when x is channels_last
        places = tokens.shape[1]
        tokens = self.block(tokens if registers is None else torch.cat([tokens, registers], dim=1), emb, context, context_mask)
        if registers is not None:
            tokens, registers = tokens[:, :places], tokens[:, places:]
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:]), registers


class UNet(nn.Module):
    """Predict from a noised image, its noise level and, where given, vectors, tokens and channels of conditioners.

    Levels go from fine to coarse. A level holds ``num_res_blocks`` residual blocks, each followed by attention on
    itself and on the tokens where the level's resolution is in ``attn_resolutions``. ``mid_blocks`` blocks sit at the
    coarsest level, where capacity is cheap.

    ``efficient=True`` gives Imagen's Efficient U-Net: each level halves the resolution before its blocks and doubles it
    after them, and skips are scaled by 1/sqrt(2). Otherwise blocks come before the halving, as in ADM.

    Args:
        image_size: side of the images in pixels; decides which level has which resolution. Training on crops is fine.
        channels: image channels.
        dim: channels of the first level; level i has ``dim * dim_mults[i]``.
        num_res_blocks: blocks per level, one number or one per level.
        attn_resolutions: resolutions (after folding) with attention.
        mid_blocks: blocks at the coarsest level, with attention if its resolution is listed.
        fold: side of the pixel blocks folded into channels at the input and unfolded at the output; saves
            ``fold**2`` of the positions at no loss of information.
        emb_dim: width of the noise embedding, and of vectors added to it; None is 4 dim.
        tokens_dim: width of the tokens that attention also looks at; None for none.
        attend_self: False leaves attention on the tokens only (Imagen's last stage).
        cond_channels: channels stacked on the noised image.
        out_channels: of the prediction; None is ``channels``.
        position: learned position table at each attention level, which starts as waves; for networks that always see whole images.
        upsample: how feature maps grow, one of ``networks.resample.UPSAMPLE_KINDS``.
        registers: learned tokens that pass through the attention of ``mid_blocks`` beside the places of the image: room for what no
            place can say, such as how many objects there are so far.

    Raises:
        ValueError: if ``image_size`` does not divide into the levels, or registers have no attention to pass through.

    Source: Saharia et al. 2022 (Imagen), appendix B and D.3; Ho et al. 2020; Darcet et al. 2023 (registers).
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int = 3,
        dim: int = 64,
        dim_mults: Sequence[int] = (1, 2, 3, 4),
        num_res_blocks: int | Sequence[int] = 2,
        attn_resolutions: Sequence[int] = (16, 8),
        mid_blocks: int = 1,
        mid_res: bool = True,
        head_dim: int = 32,
        ff_mult: float = 4,
        emb_dim: int | None = None,
        fold: int = 1,
        tokens_dim: int | None = None,
        attend_self: bool = True,
        cond_channels: int = 0,
        out_channels: int | None = None,
        position: bool = False,
        efficient: bool = False,
        dropout: float = 0.0,
        upsample: str = "repetition",
        registers: int = 0,
    ) -> None:
        super().__init__()
        dims, blocks = levels(dim, dim_mults, num_res_blocks)
        self.multiple_of = fold * 2 ** (len(dims) if efficient else len(dims) - 1)
        if image_size % self.multiple_of:
            raise ValueError(f"image_size={image_size} is not a multiple of fold * 2^halvings = {self.multiple_of}")
        emb_dim = emb_dim or 4 * dim
        self.fold, self.efficient, self.upsample = fold, efficient, upsample
        self.tokens_dim, self.cond_channels = tokens_dim, cond_channels
        self.skip_scale = 1 / math.sqrt(2) if efficient else 1.0

        self.level_embedding = LevelEmbedding(emb_dim, scale=20.0)
        self.stem = nn.Conv2d((channels + cond_channels) * fold**2, dims[0], 3, padding=1)
        block = partial(
            make_block,
            emb_dim=emb_dim,
            dropout=dropout,
            attn_resolutions=attn_resolutions,
            position=position,
            attention=dict(
                emb_dim=emb_dim,
                context_dim=tokens_dim,
                head_dim=head_dim,
                attend_self=attend_self,
                ff_mult=ff_mult,
            ),
        )
        resolution, skips = self._build_down(dims, blocks, image_size // fold, block)
        self.mid = nn.ModuleList(block(dims[-1], dims[-1], resolution, res=mid_res) for _ in range(mid_blocks))
        if registers and not (attend_self and resolution in attn_resolutions and mid_blocks):
            raise ValueError(f"registers={registers} need mid_blocks whose places attend to each other: attend_self=true, and {resolution} in "
                             "attn_resolutions")  # fmt: skip
        self.registers = nn.Parameter(torch.randn(1, registers, dims[-1])) if registers else None  # as large as what they stand beside
        self._build_up(dims, blocks, resolution, block, skips)
        self.head = make_head(2 * dims[0], (out_channels or channels) * fold**2)

    def _build_down(
        self, dims: list[int], blocks: list[int], resolution: int, block: Callable[..., Block]
    ) -> tuple[int, list[int]]:
        """Levels from fine to coarse; returns the coarsest resolution and the widths of the skips, in order."""
        self.down, skips, width = nn.ModuleList(), [dims[0]], dims[0]
        for i, (d, n) in enumerate(zip(dims, blocks)):
            level = nn.ModuleDict()
            if self.efficient or i > 0:
                level["shrink"] = downsample(width, d)
                resolution, width = resolution // 2, d
            level["blocks"] = nn.ModuleList()
            for _ in range(n):
                level["blocks"].append(block(width, d, resolution))
                width = d
                skips.append(width)
            self.down.append(level)
        return resolution, skips

    def _build_up(
        self, dims: list[int], blocks: list[int], resolution: int, block: Callable[..., Block], skips: list[int]
    ) -> None:
        """Levels from coarse to fine; each block takes one skip, the stem's is left for the head."""
        self.up, width = nn.ModuleList(), dims[-1]
        for i, (d, n) in reversed(list(enumerate(zip(dims, blocks)))):
            level = nn.ModuleDict({"blocks": nn.ModuleList()})
            for _ in range(n):
                level["blocks"].append(block(width + skips.pop(), d, resolution))
                width = d
            if self.efficient or i > 0:
                finer = dims[max(i - 1, 0)]  # fewer channels before the more numerous positions
                level["grow"] = Upsample(width, finer, self.upsample)
                width, resolution = finer, resolution * 2
            self.up.append(level)

    def forward(
        self,
        x: Tensor,
        log_snr: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        token_mask: Tensor | None = None,
        channels: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            x: (B, channels, H, W), noised, scaled to about unit variance; H and W multiples of ``multiple_of``.
            log_snr: (B,), in [-20, 20].
            vector: (B, emb_dim), added to the embedding of the noise level.
            tokens: (B, L, tokens_dim), where the net was built for them.
            token_mask: (B, L) bool, True = valid; None = all valid.
            channels: (B, cond_channels, H, W), stacked on x.

        Returns:
            (B, out_channels, H, W), the prediction.
        """
        if x.shape[-1] % self.multiple_of or x.shape[-2] % self.multiple_of:
            raise ValueError(f"image of {x.shape[-2]}x{x.shape[-1]} pixels: sides must be multiples of {self.multiple_of}")
        emb = self.level_embedding(log_snr)
        if channels is not None:
            x = torch.cat([x, channels.to(x.dtype)], dim=1)
        if vector is not None:
            emb = emb + vector
        emb = F.silu(emb)
        x = F.pixel_unshuffle(x, self.fold) if self.fold > 1 else x
        x = self.stem(x.contiguous(memory_format=torch.channels_last))

        skips = [x]
        for level in self.down:
            if "shrink" in level:
                x = level["shrink"](x)
            for block in level["blocks"]:
                x, _ = block(x, emb, tokens, token_mask)
                skips.append(x)
        registers = None if self.registers is None else self.registers.expand(len(x), -1, -1)  # (B, R, dim)
        for block in self.mid:
            x, registers = block(x, emb, tokens, token_mask, registers)
        for level in self.up:
            for block in level["blocks"]:
                x, _ = block(torch.cat([x, skips.pop() * self.skip_scale], dim=1), emb, tokens, token_mask)
            if "grow" in level:
                x = level["grow"](x)
        x = self.head(torch.cat([x, skips.pop() * self.skip_scale], dim=1))
        return F.pixel_shuffle(x, self.fold) if self.fold > 1 else x


class Block(nn.Module):
    """A residual block and, at attention resolutions, a transformer block after it, through which registers pass."""

    def __init__(
        self, res: ResBlock | None, attention: SpatialTransformer | None, *, dim: int, position: int | None
    ) -> None:
        super().__init__()
        self.res, self.attention = res, attention
        self.position = nn.Parameter(plane_waves(position, position, dim)[None]) if position else None

    def forward(
        self, x: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None, registers: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if self.res is not None:
            x = self.res(x, emb)
        if self.position is not None:
            x = x + self.position
        return (x, registers) if self.attention is None else self.attention(x, emb, context, context_mask, registers)


def make_block(
    dim_in: int,
    dim_out: int,
    resolution: int,
    *,
    res: bool = True,
    emb_dim: int,
    dropout: float,
    attn_resolutions: Sequence[int],
    position: bool,
    attention: dict[str, Any],
) -> Block:
    """A block of the U-Net; it attends if its resolution is listed and there is something to attend to."""
    attends = resolution in attn_resolutions and (attention["attend_self"] or attention["context_dim"] is not None)
    return Block(
        ResBlock(dim_in, dim_out, emb_dim, dropout=dropout) if res else None,
        SpatialTransformer(dim_out, **attention) if attends else None,
        dim=dim_out,
        position=resolution if attends and position else None,
    )


def levels(dim: int, dim_mults: Sequence[float], num_res_blocks: int | Sequence[int]) -> tuple[list[int], list[int]]:
    """Channels and blocks of each level; ValueError where they are not of as many levels."""
    dims = [int(dim * m) for m in dim_mults]
    blocks = [num_res_blocks] * len(dims) if isinstance(num_res_blocks, int) else list(num_res_blocks)
    if len(blocks) != len(dims):
        raise ValueError(f"num_res_blocks={blocks} has {len(blocks)} levels, dim_mults={list(dim_mults)} {len(dims)}")
    return dims, blocks


def make_head(dim_in: int, dim_out: int) -> nn.Sequential:
    """Normalisation and a convolution that is zero at first."""
    return nn.Sequential(
        nn.GroupNorm(_groups(dim_in), dim_in), nn.SiLU(), _zero(nn.Conv2d(dim_in, dim_out, 3, padding=1))
    )


def _groups(dim: int) -> int:
    """Groups of about 16 channels, a divisor of dim."""
    return max(g for g in range(1, min(32, max(1, dim // 16)) + 1) if dim % g == 0)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a branch at zero, so that the network starts close to the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
