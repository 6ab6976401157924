"""EDM's U-Net: DDPM++ as Karras et al. trained it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.embedding import check_tokens, sinusoids, stack
from networks.unet_ddpm import AttentionBlock, Block, ResBlock, check_sides, check_size, initialise, norm


class UNetEDM(nn.Module):
    """Predict from a noised image, its noise level and, where given, a vector, tokens and further channels.

    It differs from DDPM's U-Net in these: residual blocks change the side, by means of 2 x 2 pixels and repetition; each
    sum with a skip is scaled by 1/sqrt(2); the stem is followed by the wide level at once; on the way up only the last
    block of a level attends. The defaults are the net for CIFAR-10, of 55.7 million parameters.

    The noise level enters as c_noise = ln(sigma) / 4, sigma the noise beside a clean image of unit scale. ``vector``
    is added to its sinusoids, before the two layers of the embedding: labels and augmentations enter there.

    Args:
        image_size: side of the images in pixels; decides which level has which resolution.
        channels: image channels.
        dim: channels of the stem; level i has ``dim * dim_mults[i]``.
        num_res_blocks: blocks of a level on the way down; one more on the way up.
        attn_resolutions: resolutions with attention.
        head_dim: width of an attention head; None for one head, as published.
        scale_shift: whether the embedding scales and shifts. DDPM++ adds it; the option is ADM's.
        groups: groups of a group norm, fewer where a group would have less than 4 channels.
        emb_dim: width of ``vector`` and of the sinusoids, even; None for ``dim``.
        tokens_dim: width of the tokens, attended to wherever there is attention; None for a net without.
        cond_channels: channels of the condition stacked to the input.
        out_channels: channels of the prediction; None for ``channels``.

    Raises:
        ValueError: if ``image_size`` does not divide into the levels.

    Source: Karras et al. 2022 (EDM), table 7 and appendix F.1; Song et al. 2021, appendix H (DDPM++).
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int = 3,
        dim: int = 128,
        dim_mults: Sequence[int] = (2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        head_dim: int | None = None,
        dropout: float = 0.13,
        scale_shift: bool = False,
        groups: int = 32,
        emb_dim: int | None = None,
        tokens_dim: int | None = None,
        cond_channels: int = 0,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.multiple_of = 2 ** (len(dim_mults) - 1)
        check_size(image_size, self.multiple_of)
        self.image_size, self.channels, self.emb_dim = image_size, channels, emb_dim or dim
        self.tokens_dim, self.cond_channels, self.out_channels = tokens_dim, cond_channels, out_channels or channels

        half, inner = 1 / math.sqrt(2), 4 * dim
        self.embedding = nn.Sequential(nn.Linear(self.emb_dim, inner), nn.SiLU(), nn.Linear(inner, inner), nn.SiLU())
        self.stem = nn.Conv2d(channels + cond_channels, dim, 3, padding=1)
        res = partial(
            ResBlock, emb_dim=inner, dropout=dropout, scale_shift=scale_shift, groups=groups, skip_scale=half
        )
        attend = partial(AttentionBlock, head_dim=head_dim, tokens_dim=tokens_dim, groups=groups, skip_scale=half)
        dims = [dim * m for m in dim_mults]
        attends = [image_size // 2**i in attn_resolutions for i in range(len(dims))]

        self.down, width, skips = nn.ModuleList(), dim, [dim]
        for i, d in enumerate(dims):
            level = nn.ModuleList([Block(res(width, width, resample=nn.AvgPool2d(2)), None)] if i > 0 else [])
            for _ in range(num_res_blocks):
                level.append(Block(res(width, d), attend(d) if attends[i] else None))
                width = d
            skips += [block.res.conv_2.out_channels for block in level]
            self.down.append(level)
        self.mid = nn.ModuleList([Block(res(width, width), attend(width)), Block(res(width, width), None)])
        self.up = nn.ModuleList()
        for i, d in reversed(list(enumerate(dims))):
            grow = Block(res(width, width, resample=nn.Upsample(scale_factor=2)), None)
            level = nn.ModuleDict({"blocks": nn.ModuleList()} | ({"grow": grow} if i < len(dims) - 1 else {}))
            for j in range(num_res_blocks + 1):
                last = j == num_res_blocks
                level["blocks"].append(
                    Block(res(width + skips.pop(), d), attend(d) if attends[i] and last else None)
                )
                width = d
            self.up.append(level)
        self.norm = norm(width, groups)
        self.head = nn.Conv2d(width, self.out_channels, 3, padding=1)
        initialise(self, zero=self.head)

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
            x: (B, channels, H, W), noised, of about unit variance; H and W multiples of ``multiple_of``.
            log_snr: (B,), in [-20, 20].
            vector: (B, emb_dim), added to the sinusoids of the noise level.
            tokens: (B, L, tokens_dim).
            token_mask: (B, L) bool, True = valid.
            channels: (B, cond_channels, H, W), stacked to x.

        Returns:
            (B, out_channels, H, W).
        """
        check_sides(x, self.multiple_of)
        check_tokens(tokens, self.tokens_dim)
        emb = sinusoids(-log_snr / 8, self.emb_dim).to(self.stem.weight.dtype)  # log_snr = -2 ln(sigma)
        emb = self.embedding(emb if vector is None else emb + vector)
        x = self.stem(stack(x, channels, self.cond_channels))
        skips = [x]
        for level in self.down:
            for block in level:
                x = block(x, emb, tokens, token_mask)
                skips.append(x)
        for block in self.mid:
            x = block(x, emb, tokens, token_mask)
        for level in self.up:
            if "grow" in level:
                x = level["grow"](x, emb)
            for block in level["blocks"]:
                x = block(torch.cat([x, skips.pop()], dim=1), emb, tokens, token_mask)
        return self.head(F.silu(self.norm(x)))
