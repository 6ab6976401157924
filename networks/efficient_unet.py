"""Imagen's Efficient U-Net as its figures draw it: one embedding, one skip and one attention a level."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from networks.attention import Attention
from networks.embedding import StepEmbedding, check_tokens, stack
from networks.unet_ddpm import check_sides, check_size, norm

SKIP_SCALE = 1 / math.sqrt(2)


class EfficientUNet(nn.Module):
    """Predict from a noised image, its noise level and, where given, a vector, tokens and further channels.

    A level halves the side first, takes the embedding in once, runs its residual blocks, and attends once; its output is
    the one skip. On the way up a level adds that skip, scaled by 1/sqrt(2), runs as many blocks, attends, and doubles
    the side last. So most blocks stand at the coarsest levels, where a position is cheap and a block has most weights.

    ``networks.unet.UNet(efficient=True)`` is the other reading: skips of every block, concatenated, the embedding in
    every block. docs/nets.md compares both with the paper's 600 and 400 million parameters.

    Args:
        image_size: side of the images in pixels; decides which level has which resolution. Training on crops is fine.
        channels: image channels.
        dim: channels of the stem; level i has ``dim * dim_mults[i]``.
        num_res_blocks: blocks of a level on either way, one number or one per level.
        attn_resolutions: resolutions, after a level's halving, with attention.
        head_dim: width of an attention head.
        attn_mult: width of all heads together, in the level's channels.
        attend_self: False leaves attention on the tokens only, as in the paper's last stage.
        groups: groups of a group norm, fewer where a group would have less than 4 channels.
        emb_dim: width of the embedding that ``vector`` is added to; None for 4 ``dim``.
        tokens_dim: width of the tokens; None for a net without.
        cond_channels: channels of the condition stacked to the input: the low-resolution image.
        out_channels: channels of the prediction; None for ``channels``.

    Raises:
        ValueError: if ``image_size`` does not divide into the levels, or their numbers differ.

    Source: Saharia et al. 2022 (Imagen), appendices B.1, F.2 and F.3, figures A.27 to A.30.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int = 3,
        dim: int = 128,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int | Sequence[int] = (2, 4, 8, 8),
        attn_resolutions: Sequence[int] = (16,),
        head_dim: int = 256,
        attn_mult: int = 2,
        attend_self: bool = True,
        dropout: float = 0.0,
        groups: int = 32,
        emb_dim: int | None = None,
        tokens_dim: int | None = None,
        cond_channels: int = 0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        blocks = [num_res_blocks] * len(dim_mults) if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if len(blocks) != len(dim_mults):
            raise ValueError(f"num_res_blocks={blocks} and dim_mults={list(dim_mults)} are not of as many levels")
        self.multiple_of = 2 ** len(dim_mults)
        check_size(image_size, self.multiple_of)
        self.image_size, self.channels, self.emb_dim = image_size, channels, emb_dim or 4 * dim
        self.tokens_dim, self.cond_channels, self.out_channels = tokens_dim, cond_channels, out_channels or channels

        self.step_embedding = StepEmbedding(dim, self.emb_dim)
        self.stem = nn.Conv2d(channels + cond_channels, dim, 3, padding=1)
        self.down, self.up, width = nn.ModuleList(), nn.ModuleList(), dim
        for i, (mult, n) in enumerate(zip(dim_mults, blocks)):
            d = dim * mult
            attention = dict(
                context_dim=tokens_dim, head_dim=head_dim, inner_dim=attn_mult * d, attend_self=attend_self
            )
            attends = image_size // 2 ** (i + 1) in attn_resolutions and (attend_self or tokens_dim is not None)
            level = dict(num_res_blocks=n, emb_dim=self.emb_dim, groups=groups, dropout=dropout)
            level["attention"] = attention if attends else None
            self.down.append(DownLevel(width, d, **level))
            self.up.insert(0, UpLevel(d, width, **level))
            width = d
        self.head = nn.Conv2d(dim, self.out_channels, 1)  # the figure's "dense" layer
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

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
            x: (B, channels, H, W), noised; H and W multiples of ``multiple_of``.
            log_snr: (B,), in [-20, 20].
            vector: (B, emb_dim), added to the embedding of the noise level.
            tokens: (B, L, tokens_dim).
            token_mask: (B, L) bool, True = valid.
            channels: (B, cond_channels, H, W), stacked to x.

        Returns:
            (B, out_channels, H, W).
        """
        check_sides(x, self.multiple_of)
        check_tokens(tokens, self.tokens_dim)
        # [-20, 20] spread over the 1000 steps for which the frequencies were chosen
        emb = self.step_embedding((20 - log_snr) * 25)
        emb = F.silu(emb if vector is None else emb + vector)
        x = self.stem(stack(x, channels, self.cond_channels))
        skips = []
        for level in self.down:
            x = level(x, emb, tokens, token_mask)
            skips.append(x)
        skips[-1] = None  # the coarsest level's output is where the way up starts
        for level in self.up:
            x = level(x, skips.pop(), emb, tokens, token_mask)
        return self.head(x)


class Level(nn.Module):
    """The embedding once, residual blocks, attention once: what both ways have in common, (B, dim, H, W)."""

    def __init__(
        self, dim: int, *, num_res_blocks: int, emb_dim: int, groups: int, dropout: float, attention: dict | None
    ) -> None:
        super().__init__()
        self.modulation = nn.Linear(emb_dim, 2 * dim)
        self.blocks = nn.ModuleList(ResBlock(dim, groups=groups, dropout=dropout) for _ in range(num_res_blocks))
        self.attention_norm = norm(dim, groups) if attention else None
        self.attention = Attention(dim, **attention) if attention else None

    def run(self, x: Tensor, emb: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)  # (B, dim, 1, 1) each
        x = x * (1 + scale) + shift
        for block in self.blocks:
            x = block(x)
        if self.attention is None:
            return x
        h = self.attention_norm(x).flatten(2).transpose(1, 2)  # (B, HW, dim)
        h = self.attention(h, tokens, token_mask)
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class DownLevel(Level):
    """Halve the side, then the level: (B, dim_in, 2H, 2W) -> (B, dim_out, H, W)."""

    def __init__(self, dim_in: int, dim_out: int, **kwargs) -> None:
        super().__init__(dim_out, **kwargs)
        self.shrink = nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor, tokens: Tensor | None, token_mask: Tensor | None) -> Tensor:
        return self.run(self.shrink(x), emb, tokens, token_mask)


class UpLevel(Level):
    """Add the skip where there is one, the level, then double the side: (B, dim_in, H, W) -> (B, dim_out, 2H, 2W)."""

    def __init__(self, dim_in: int, dim_out: int, **kwargs) -> None:
        super().__init__(dim_in, **kwargs)
        self.grow = nn.Conv2d(dim_in, dim_out, 3, padding=1)

    def forward(
        self, x: Tensor, skip: Tensor | None, emb: Tensor, tokens: Tensor | None, token_mask: Tensor | None
    ) -> Tensor:
        x = self.run(x if skip is None else x + skip * SKIP_SCALE, emb, tokens, token_mask)
        return self.grow(F.interpolate(x, scale_factor=2, mode="nearest"))


class ResBlock(nn.Module):
    """Two convolutions beside a 1 x 1 convolution of the input, (B, dim, H, W).

    Source: Saharia et al. 2022 (Imagen), figure A.27.
    """

    def __init__(self, dim: int, *, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = norm(dim, groups)
        self.conv_1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm_2 = norm(dim, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.skip = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)
        nn.init.dirac_(self.skip.weight)  # a new block is the identity
        nn.init.zeros_(self.skip.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        return self.skip(x) + self.conv_2(self.dropout(F.silu(self.norm_2(h))))
