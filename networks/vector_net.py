"""A denoising net for vectors: latents of an autoencoder, or embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.conditioners import LevelEmbedding


class VectorBlock(nn.Module):
    """A residual perceptron on a normalised vector (B, dim), scaled, shifted and gated by an embedding (B, emb_dim).

    Source: Peebles & Xie 2023 (DiT), section 3.2, without attention
    """

    def __init__(self, dim: int, emb_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(emb_dim, 3 * dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(emb).chunk(3, dim=-1)  # (B, dim) each
        return x + (1 + gate) * self.ff(self.norm(x) * (1 + scale) + shift)


class VectorNet(nn.Module):
    """Predict from a noised vector, its noise level and, where given, vectors of conditioners.

    Args:
        size: numbers per sample.
        dim: width of the blocks.
        depth: number of blocks.
        emb_dim: width of the embedding of noise level and conditions; None is dim.
        dropout: in the blocks.
        out_size: numbers of the prediction; None is size.
    """

    def __init__(
        self,
        *,
        size: int,
        dim: int = 256,
        depth: int = 4,
        emb_dim: int | None = None,
        dropout: float = 0.0,
        out_size: int | None = None,
    ) -> None:
        super().__init__()
        emb_dim = emb_dim or dim
        self.level_embedding = LevelEmbedding(emb_dim, scale=20.0)
        self.stem = nn.Linear(size, dim)
        self.blocks = nn.ModuleList(VectorBlock(dim, emb_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, out_size or size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, log_snr: Tensor, *, vector: Tensor | None = None) -> Tensor:
        """Args: x (B, size), log_snr (B,) in [-20, 20], vector (B, emb_dim). Returns (B, out_size)."""
        emb = self.level_embedding(log_snr)
        emb = F.silu(emb if vector is None else emb + vector)
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, emb)
        return self.head(self.norm(x))
