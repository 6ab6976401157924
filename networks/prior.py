"""The prior of unCLIP: a causal transformer that reads a caption and predicts an embedding of its image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contracts import Batch
from networks.clip import Transformer, check_width
from networks.conditioners import Conditioner, LevelEmbedding, Told, Value


class PriorTransformer(nn.Module):
    """Predict from a noised embedding what a decoder-only causal transformer says at a learned query.

    The sequence is what the conditioners give (a caption's tokens, then its CLIP embedding), the noise level, the noised
    embedding, the query. Each place sees itself and what is before it.

    Args:
        size: numbers of an embedding.
        dim: width of the transformer, a multiple of `heads`.
        layers: number of blocks.
        tokens_dim: width of the conditioners' tokens; must be `dim`. None for a prior without conditions.
    Raises: ValueError for widths that do not fit.
    Source: Ramesh et al. 2022 (unCLIP), section 2.2
    """

    def __init__(
        self, *, size: int, dim: int = 256, layers: int = 4, heads: int = 4, mlp_ratio: float = 4.0, tokens_dim: int | None = None
    ) -> None:
        super().__init__()
        check_width(dim, heads)
        if tokens_dim is not None and tokens_dim != dim:
            raise ValueError(f"tokens_dim={tokens_dim}: the prior reads its conditions as tokens of its own width, dim={dim}")
        self.level_embedding = LevelEmbedding(dim, scale=20.0)
        self.stem = nn.Linear(size, dim)
        self.query = nn.Parameter(0.02 * torch.randn(dim))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(3, dim))  # of level, embedding and query, wherever the caption ends
        self.transformer = Transformer(dim, layers, heads, mlp_ratio)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Tensor, log_snr: Tensor, *, vector: Tensor | None = None, tokens: Tensor | None = None, token_mask: Tensor | None = None
    ) -> Tensor:
        """Args: x (B, size); log_snr (B,); vector (B, dim), added to the level; tokens (B, L, dim); token_mask (B, L) bool, its
        first column True. Returns (B, size)."""
        level = self.level_embedding(log_snr)
        level = level if vector is None else level + vector
        own = torch.stack([level, self.stem(x), self.query.expand_as(level)], 1) + self.positional_embedding  # (B, 3, dim)
        mask = None
        if tokens is not None:
            if token_mask is not None:
                mask = torch.cat([token_mask, token_mask.new_ones(len(x), own.shape[1])], 1)  # (B, L + 3)
            own = torch.cat([tokens.to(own.dtype), own], 1)
        return self.head(self.norm(self.transformer(own, causal=True, mask=mask)[:, -1]))


class EmbeddedCaptionConditioner(Conditioner):
    """A caption as CLIP reads it, its tokens and behind them its embedding, for a causal transformer.

    Reads `text_embeds` (B, L, token_dim), `text_mask` (B, L) bool, `text_vector` (B, embed_dim) and, where given, `text_keep`
    (B,) bool, False = an empty caption. Tokens and embedding are dropped together: dropped, they are two learned tokens.

    Args:
        token_dim: width of a caption's tokens.
        embed_dim: width of its embedding.
        tokens_dim: width of what it gives.
        max_length: longest caption, in tokens, that the position table covers.
    Source: Ramesh et al. 2022 (unCLIP), section 2.2
    """

    reads = "text"

    def __init__(self, token_dim: int, embed_dim: int, tokens_dim: int, *, max_length: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(token_dim)
        self.from_tokens = nn.Linear(token_dim, tokens_dim)
        self.from_vector = nn.Linear(embed_dim, tokens_dim)
        self.scale = embed_dim**0.5  # a unit vector's numbers are brought to about 1
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(max_length, tokens_dim))
        self.no_token = nn.Parameter(0.02 * torch.randn(tokens_dim))
        self.no_vector = nn.Parameter(0.02 * torch.randn(tokens_dim))

    def from_batch(self, batch: Batch) -> Value:
        if "text_vector" not in batch or "text_embeds" not in batch:
            raise ValueError("a prior needs captions: the batch has no text_vector and text_embeds")
        text = batch["text_embeds"]
        value = {"text": text, "mask": batch["text_mask"], "vector": batch["text_vector"]}
        value["keep"] = torch.ones(len(text), dtype=torch.bool, device=text.device)
        keep = batch.get("text_keep")
        return value if keep is None else self.drop(value, keep)

    def drop(self, value: Value, keep: Tensor) -> Value:
        first = torch.zeros_like(value["mask"])
        first[:, 0] = True
        return value | {"mask": torch.where(keep[:, None], value["mask"], first), "keep": value["keep"] & keep}

    def forward(self, value: Value) -> Told:
        text, mask, keep = value["text"], value["mask"], value["keep"][:, None, None]
        if text.shape[1] > len(self.positional_embedding):
            raise ValueError(f"a caption of {text.shape[1]} tokens is longer than the {len(self.positional_embedding)} the prior was built for")
        tokens = self.from_tokens(self.norm(text)) + self.positional_embedding[: text.shape[1]]  # (B, L, tokens_dim)
        vector = self.from_vector(value["vector"] * self.scale)[:, None]
        tokens, vector = torch.where(keep, tokens, self.no_token.to(tokens)), torch.where(keep, vector, self.no_vector.to(vector))
        return {"tokens": torch.cat([tokens, vector], 1), "token_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], 1)}
