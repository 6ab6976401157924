"""What a denoiser is told besides the noised image: the noise level and the text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LevelEmbedding(nn.Module):
    """Embed a noise level (a log-SNR or an augmentation level) as a vector.

    Args:
        dim: width of the result.
        scale: what the level is divided by, so that its useful range is about [-1, 1].

    Source: Vaswani et al. 2017 (sinusoids); Ho et al. 2020, appendix B (as time embedding).
    """

    def __init__(self, dim: int, scale: float, num_frequencies: int = 32) -> None:
        super().__init__()
        self.scale = scale
        # from a quarter of a period over the range to periods of a few hundredths of it
        frequencies = 2 * math.pi * torch.exp(torch.linspace(math.log(0.25), math.log(16.0), num_frequencies))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * num_frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, level: Tensor) -> Tensor:
        """Level (B,) -> (B, dim)."""
        angles = (level.float() / self.scale)[:, None] * self.frequencies  # float32: bf16 cannot tell levels apart
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class TextConditioner(nn.Module):
    """Turn a frozen encoder's tokens into context for attention and one pooled vector for the noise embedding.

    Tokens are layer-normalised (the paper found that this "considerably" helps) and projected; ``num_layers``
    trainable transformer layers may refine them for the image's sake (0 in the paper; cheap, since a caption has few
    tokens). The pooled vector is an attention pooling with one learned query.

    Args:
        text_dim: width of the encoder's tokens.
        dim: width of the context given to attention.
        emb_dim: width of the noise embedding that the pooled vector is added to.
        num_layers: trainable layers on top of the frozen encoder.
        max_length: longest caption, in tokens, that the position table covers.

    Source: Saharia et al. 2022 (Imagen), appendix D.3.1.
    """

    def __init__(
        self, text_dim: int, dim: int, emb_dim: int, *, num_layers: int = 0, head_dim: int = 32, max_length: int = 256
    ) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(text_dim)
        self.project = nn.Linear(text_dim, dim)
        self.position = nn.Parameter(torch.zeros(max_length, dim)) if num_layers else None
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, dim // head_dim, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)
        self.pool_logit = nn.Linear(dim, 1)
        self.pool_out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

    def forward(self, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Args: text (B, L, text_dim), mask (B, L) bool. Returns: context (B, L, dim), pooled (B, emb_dim)."""
        tokens = self.project(self.norm_in(text))  # (B, L, dim)
        if self.position is not None:
            if text.shape[1] > len(self.position):
                raise ValueError(
                    f"a caption of {text.shape[1]} tokens is longer than the {len(self.position)} the network was built for"
                )
            tokens = tokens + self.position[: text.shape[1]]
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        tokens = self.norm_out(tokens)
        logits = self.pool_logit(tokens).squeeze(-1).float().masked_fill(~mask, float("-inf"))  # (B, L)
        pooled = (logits.softmax(-1)[..., None] * tokens).sum(1)
        return tokens, self.pool_out(pooled)

