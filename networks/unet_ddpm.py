"""The U-Net of DDPM as published, and with the options of improved DDPM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.attention import Attention
from networks.embedding import LinearSteps, StepEmbedding, check_tokens, stack

EPS = 1e-6  # of every group norm, as published


class UNetDDPM(nn.Module):
    """Predict from a noised image, its noise level and, where given, a vector, tokens and further channels.

    Levels go from fine to coarse, each of half the side of the one before. A level has ``num_res_blocks`` residual
    blocks on the way down and one more on the way up, where each takes one skip; attention follows each block at
    ``attn_resolutions`` and stands in the middle. The defaults are the net for CIFAR-10, of 35.7 million parameters.

    The noise level enters as the index of DDPM's training step that has this log-SNR.

    Args:
        image_size: side of the images in pixels; decides which level has which resolution.
        channels: image channels.
        dim: channels of the first level; level i has ``dim * dim_mults[i]``.
        num_res_blocks: blocks of a level on the way down.
        attn_resolutions: resolutions with attention.
        head_dim: width of an attention head; None for one head, as published. Improved DDPM: 64.
        scale_shift: whether the embedding scales and shifts instead of being added (improved DDPM: True).
        groups: groups of a group norm, fewer where a group would have less than 4 channels.
        emb_dim: width of the embedding that ``vector`` is added to; None for 4 ``dim``.
        tokens_dim: width of the tokens, attended to wherever there is attention; None for a net without.
        cond_channels: channels of the condition stacked to the input.
        out_channels: channels of the prediction; None for ``channels``, twice as many where the variance is learned.
        schedule: what gives the step by ``t_from_log_snr``; None for DDPM's own table of betas.
        num_train_steps: number of training steps.

    Raises:
        ValueError: if ``image_size`` does not divide into the levels.

    Source: Ho et al. 2020, appendix B; Nichol & Dhariwal 2021, section 3 and appendix A.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int = 3,
        dim: int = 128,
        dim_mults: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        head_dim: int | None = None,
        dropout: float = 0.1,
        scale_shift: bool = False,
        groups: int = 32,
        emb_dim: int | None = None,
        tokens_dim: int | None = None,
        cond_channels: int = 0,
        out_channels: int | None = None,
        schedule: Any | None = None,
        num_train_steps: int = 1000,
    ) -> None:
        super().__init__()
        self.multiple_of = 2 ** (len(dim_mults) - 1)
        check_size(image_size, self.multiple_of)
        self.image_size, self.channels, self.emb_dim = image_size, channels, emb_dim or 4 * dim
        self.tokens_dim, self.cond_channels, self.out_channels = tokens_dim, cond_channels, out_channels or channels
        self.schedule, self.num_train_steps = schedule, num_train_steps
        self.linear_steps = LinearSteps(num_train_steps) if schedule is None else None

        self.step_embedding = StepEmbedding(dim, self.emb_dim)
        self.stem = nn.Conv2d(channels + cond_channels, dim, 3, padding=1)
        res = partial(ResBlock, emb_dim=self.emb_dim, dropout=dropout, scale_shift=scale_shift, groups=groups)
        attend = partial(AttentionBlock, head_dim=head_dim, tokens_dim=tokens_dim, groups=groups)
        dims = [dim * m for m in dim_mults]
        attends = [image_size // 2**i in attn_resolutions for i in range(len(dims))]

        self.down, width, skips = nn.ModuleList(), dim, [dim]
        for i, d in enumerate(dims):
            level = nn.ModuleDict({"blocks": nn.ModuleList()})
            for _ in range(num_res_blocks):
                level["blocks"].append(Block(res(width, d), attend(d) if attends[i] else None))
                width = d
                skips.append(width)
            if i < len(dims) - 1:
                level["shrink"] = Shrink(width)
                skips.append(width)
            self.down.append(level)
        self.mid = nn.ModuleList([Block(res(width, width), attend(width)), Block(res(width, width), None)])
        self.up = nn.ModuleList()
        for i, d in reversed(list(enumerate(dims))):
            level = nn.ModuleDict({"blocks": nn.ModuleList()})
            for _ in range(num_res_blocks + 1):
                level["blocks"].append(Block(res(width + skips.pop(), d), attend(d) if attends[i] else None))
                width = d
            if i > 0:
                level["grow"] = Grow(width)
            self.up.append(level)
        self.norm = norm(width, groups)
        self.head = nn.Conv2d(width, self.out_channels, 3, padding=1)
        initialise(self, zero=self.head)

    def step(self, log_snr: Tensor) -> Tensor:
        """log_snr (B,) -> index (B,) of the training step, 0 = the cleanest; between the steps too."""
        if self.linear_steps is not None:
            position = self.linear_steps(log_snr)
        else:
            position = (self.schedule.t_from_log_snr(log_snr.double()) * self.num_train_steps - 1).clamp(min=0)
        return position.to(log_snr.dtype if log_snr.dtype == torch.float64 else torch.float32)

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
        emb = self.step_embedding(self.step(log_snr))
        emb = F.silu(emb if vector is None else emb + vector)
        x = self.stem(stack(x, channels, self.cond_channels))
        skips = [x]
        for level in self.down:
            for block in level["blocks"]:
                x = block(x, emb, tokens, token_mask)
                skips.append(x)
            if "shrink" in level:
                x = level["shrink"](x)
                skips.append(x)
        for block in self.mid:
            x = block(x, emb, tokens, token_mask)
        for level in self.up:
            for block in level["blocks"]:
                x = block(torch.cat([x, skips.pop()], dim=1), emb, tokens, token_mask)
            if "grow" in level:
                x = level["grow"](x)
        return self.head(F.silu(self.norm(x)))


class Block(nn.Module):
    """A residual block and, where there is one, attention after it."""

    def __init__(self, res: ResBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.res, self.attention = res, attention

    def forward(self, x: Tensor, emb: Tensor, tokens: Tensor | None = None, token_mask: Tensor | None = None) -> Tensor:
        x = self.res(x, emb)
        return x if self.attention is None else self.attention(x, tokens, token_mask)


class ResBlock(nn.Module):
    """Two convolutions beside the input; the embedding is added, or scales and shifts, between them.

    Args:
        dim_in: channels of the input (B, dim_in, H, W).
        dim_out: channels of the output.
        emb_dim: width of the embedding (B, emb_dim).
        resample: changes the side of both paths before their first convolution; None leaves it.
        skip_scale: factor on the sum of both paths.

    Source: Ho et al. 2020, appendix B; Nichol & Dhariwal 2021 (scale and shift); Song et al. 2021 (the rest).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        emb_dim: int,
        dropout: float = 0.0,
        scale_shift: bool = False,
        groups: int = 32,
        resample: nn.Module | None = None,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.skip_scale = scale_shift, skip_scale
        self.resample = resample or nn.Identity()
        self.norm_1 = norm(dim_in, groups)
        self.conv_1 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.modulation = nn.Linear(emb_dim, 2 * dim_out if scale_shift else dim_out)
        self.norm_2 = norm(dim_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(dim_out, dim_out, 3, padding=1)
        self.skip = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out or resample is not None else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_1(self.resample(F.silu(self.norm_1(x))))
        emb = self.modulation(emb)[:, :, None, None]  # (B, dim_out or twice that, 1, 1)
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(h + emb)
        h = self.conv_2(self.dropout(F.silu(h)))
        return (self.skip(self.resample(x)) + h) * self.skip_scale


class AttentionBlock(nn.Module):
    """Attention over the positions of a feature map and, where given, tokens, beside the input: (B, dim, H, W)."""

    def __init__(
        self,
        dim: int,
        *,
        head_dim: int | None = None,
        tokens_dim: int | None = None,
        groups: int = 32,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.skip_scale = skip_scale
        self.norm = norm(dim, groups)
        self.attention = Attention(dim, context_dim=tokens_dim, head_dim=head_dim or dim, bias=True, qk_norm=False)

    def forward(self, x: Tensor, tokens: Tensor | None = None, token_mask: Tensor | None = None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, dim)
        h = self.attention(h, tokens, token_mask).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, dim, H, W)
        return (x + h) * self.skip_scale


class Shrink(nn.Module):
    """Halve the side by a strided convolution that sees one row and column of zeros, at the right and below."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Grow(nn.Module):
    """Double the side by repetition, then a convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def norm(dim: int, groups: int) -> nn.GroupNorm:
    """A group norm of ``groups`` groups, or the next smaller number that divides dim into groups of 4 or more."""
    most = max(1, min(groups, dim // 4))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if dim % g == 0), dim, eps=EPS)


def initialise(net: nn.Module, *, zero: nn.Module) -> None:
    """Xavier for all layers; zero for the last layer of each branch and for the one named."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in net.modules():
        if isinstance(layer, ResBlock):
            nn.init.zeros_(layer.conv_2.weight)
        elif isinstance(layer, AttentionBlock):
            nn.init.zeros_(layer.attention.to_out.weight)
    nn.init.zeros_(zero.weight)


def check_size(image_size: int, multiple_of: int) -> None:
    """ValueError unless a side divides into a net's levels."""
    if image_size % multiple_of:
        raise ValueError(f"image_size={image_size} is not a multiple of 2^halvings = {multiple_of}")


def check_sides(x: Tensor, multiple_of: int) -> None:
    """ValueError unless both sides of x (B, C, H, W) divide into a net's levels."""
    if x.shape[-1] % multiple_of or x.shape[-2] % multiple_of:
        raise ValueError(f"image of {x.shape[-2]}x{x.shape[-1]} pixels: sides must be multiples of {multiple_of}")
