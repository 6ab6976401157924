"""The diffusion transformer: an image as a sequence of patches, told of its noise level by adaptive layer norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.attention import Attention
from networks.embedding import StepEmbedding, check_tokens, stack

EPS = 1e-6  # of every layer norm, as published
STEP_DIM = 256  # width of the sinusoids of the noise level, as published


class DiT(nn.Module):
    """Predict from a noised image, its noise level and, where given, a vector, tokens and further channels.

    Tokens join each block's self-attention: their keys and values stand beside those of the patches, and one softmax
    decides between both, as in this repository's U-Nets. A separate cross-attention would cost a third branch with its
    own modulation in every block; and it has nothing to attend to where a dropped condition leaves no valid token.

    An image may have other sides than ``image_size``, a crop for example: positions count from its upper left corner.

    Args:
        image_size: side of the images in pixels.
        channels: image channels.
        patch_size: side of a patch; H and W must be multiples of it.
        dim: width of the sequence, a multiple of 4 and of ``head_dim``.
        depth: number of blocks.
        head_dim: width of an attention head.
        ff_mult: hidden width of a block's perceptron, in ``dim``.
        emb_dim: width of the embedding that ``vector`` is added to; None for ``dim``, as published.
        tokens_dim: width of the tokens; None for a net without.
        cond_channels: channels of the condition stacked to the input.
        out_channels: channels of the prediction; None for ``channels``, twice as many where the variance is learned.
        qk_norm: RMS-normalise queries and keys (Dehghani et al. 2023); False as published.

    Raises:
        ValueError: if widths or sides do not divide.

    Source: Peebles & Xie 2023 (DiT), section 3.2.
    """

    def __init__(
        self,
        *,
        image_size: int,
        channels: int = 3,
        patch_size: int = 4,
        dim: int = 192,
        depth: int = 6,
        head_dim: int = 64,
        ff_mult: float = 4,
        emb_dim: int | None = None,
        tokens_dim: int | None = None,
        cond_channels: int = 0,
        out_channels: int | None = None,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} is not a multiple of patch_size={patch_size}")
        if dim % 4:
            raise ValueError(f"dim={dim} is not a multiple of 4, which the positions' sines and cosines need")
        self.image_size, self.channels, self.patch_size = image_size, channels, patch_size
        self.emb_dim, self.tokens_dim, self.cond_channels = emb_dim or dim, tokens_dim, cond_channels
        self.out_channels = out_channels or channels

        self.step_embedding = StepEmbedding(STEP_DIM, self.emb_dim)
        self.stem = nn.Conv2d(channels + cond_channels, dim, patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(
            DiTBlock(
                dim, emb_dim=self.emb_dim, context_dim=tokens_dim, head_dim=head_dim, ff_mult=ff_mult, qk_norm=qk_norm
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.modulation = nn.Linear(self.emb_dim, 2 * dim)
        self.head = nn.Linear(dim, patch_size**2 * self.out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for all layers, small normal for the noise level, zero for modulations and head."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(layer.weight.flatten(1))  # a patch's projection is a linear layer
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in (self.step_embedding.mlp[0], self.step_embedding.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.modulation, self.head, *(block.modulation for block in self.blocks)):
            nn.init.zeros_(layer.weight)

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
            x: (B, channels, H, W), noised; H and W multiples of ``patch_size``.
            log_snr: (B,), in [-20, 20].
            vector: (B, emb_dim), added to the embedding of the noise level.
            tokens: (B, L, tokens_dim).
            token_mask: (B, L) bool, True = valid.
            channels: (B, cond_channels, H, W), stacked to x.

        Returns:
            (B, out_channels, H, W).
        """
        size = self.patch_size
        if x.shape[-1] % size or x.shape[-2] % size:
            raise ValueError(f"image of {x.shape[-2]}x{x.shape[-1]} pixels: sides must be multiples of {size}")
        check_tokens(tokens, self.tokens_dim)
        # [-20, 20] spread over the 1000 steps for which the frequencies were chosen
        emb = self.step_embedding((20 - log_snr) * 25)
        emb = F.silu(emb if vector is None else emb + vector)
        x = self.stem(stack(x, channels, self.cond_channels))
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (B, rows * columns, dim)
        x = x + positions(rows, columns, x.shape[-1], like=x)
        for block in self.blocks:
            x = block(x, emb, tokens, token_mask)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=-1)  # (B, 1, dim) each
        x = self.head(self.norm(x) * (1 + scale) + shift)
        x = x.unflatten(2, (size, size, -1)).unflatten(1, (rows, columns))  # (B, rows, columns, size, size, C)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (B, C, H, W)


class DiTBlock(nn.Module):
    """Attention, then a two-layer perceptron; the embedding shifts, scales and gates both (adaLN-Zero).

    The gates start at zero, so that a new net is the identity.

    Source: Peebles & Xie 2023 (DiT), section 3.2 and figure 3.
    """

    def __init__(
        self, dim: int, *, emb_dim: int, context_dim: int | None, head_dim: int, ff_mult: float, qk_norm: bool
    ) -> None:
        super().__init__()
        hidden = int(dim * ff_mult)
        self.norm_1 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.attention = Attention(dim, context_dim=context_dim, head_dim=head_dim, bias=True, qk_norm=qk_norm)
        self.norm_2 = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False)
        self.ff = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.modulation = nn.Linear(emb_dim, 6 * dim)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        """Args: x (B, N, dim); emb (B, emb_dim); context (B, L, context_dim); context_mask (B, L) bool."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attention(self.norm_1(x) * (1 + scale_1) + shift_1, context, context_mask)
        return x + gate_2 * self.ff(self.norm_2(x) * (1 + scale_2) + shift_2)


def positions(rows: int, columns: int, dim: int, *, like: Tensor) -> Tensor:
    """Sines and cosines of each patch's column, then of its row: (rows * columns, dim).

    Source: Peebles & Xie 2023 (DiT), section 3.2 ("frequency-based positional embeddings").
    """
    exact = dict(device=like.device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, **exact) / (dim // 4))

    def along(length: int) -> Tensor:
        angles = torch.arange(length, **exact)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)  # (length, dim / 2)

    of_column = along(columns).expand(rows, -1, -1)
    of_row = along(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([of_column, of_row], dim=-1).flatten(0, 1).to(like)  # (rows * columns, dim)
