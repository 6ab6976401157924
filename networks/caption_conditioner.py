"""Captions as a condition: a text transformer that is trained together with the net it tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from contracts import Batch
from networks.clip import Transformer
from networks.conditioners import Conditioner, Told, Value
from networks.embedding import waves
from networks.text.bpe import BPETokenizer


class CaptionConditioner(Conditioner):
    """A caption's tokens through a transformer: all of them as context for attention, the last one as a vector.

    Reads `caption` (list of B). Every caption has `context_length` places; those behind its end mark hold learned
    vectors, one per place, so that all places are valid and nothing is masked. The last place's output is the vector, as
    in the released model: it is a learned query that has read the whole caption, at the same place for every caption. A
    dropped caption is the empty one. There is no projection of the tokens here: every attention layer has its own.

    Words and fillers start at unit size, and places as waves. CLIP's start, a fiftieth of that, is drowned by what the first layer adds to
    it, and a short training learns no order of words (docs/glide.md).

    Args:
        tokens_dim: width of the transformer and of the tokens.
        emb_dim: width of the vector.
        vocab_size, context_length: as of ``BPETokenizer``; longer captions are cut.
        num_layers, heads: of the transformer; the width is a multiple of `heads`.

    Raises: ValueError for a width that does not hold so many heads.
    Source: Nichol et al. 2022 (GLIDE), section 3.1, and its released code (padding, the last place)
    """

    reads = "text"

    def __init__(
        self,
        tokens_dim: int,
        emb_dim: int,
        *,
        vocab_size: int = 4096,
        context_length: int = 48,
        num_layers: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if tokens_dim % heads:
            raise ValueError(f"tokens_dim={tokens_dim} is not a multiple of heads={heads}")
        self.tokenizer = BPETokenizer(vocab_size, context_length)
        self.token_embedding = nn.Embedding(vocab_size, tokens_dim)
        self.positional_embedding = nn.Parameter(waves(context_length, tokens_dim, longest=128))
        self.padding_embedding = nn.Parameter(torch.randn(context_length, tokens_dim))
        self.transformer = Transformer(tokens_dim, num_layers, heads)
        self.norm_out = nn.LayerNorm(tokens_dim)
        self.to_vector = nn.Linear(tokens_dim, emb_dim)

    def from_batch(self, batch: Batch) -> Value:
        if "caption" not in batch:
            raise ValueError("a model that reads captions needs one per image: the batch has no caption")
        return {"ids": self._ids(batch["caption"])}

    def drop(self, value: Value, keep: Tensor) -> Value:
        """The empty caption where keep is False."""
        return {"ids": torch.where(keep[:, None], value["ids"], self._ids([""]))}

    def forward(self, value: Value) -> Told:
        ids = value["ids"]  # (B, L)
        place = torch.arange(ids.shape[1], device=ids.device)
        behind = place > ids.argmax(1, keepdim=True)  # (B, L); the end mark is the largest number
        x = self.token_embedding(ids) + self.positional_embedding
        x = torch.where(behind[..., None], self.padding_embedding.to(x), x)
        tokens = self.norm_out(self.transformer(x))  # (B, L, tokens_dim)
        return {"vector": self.to_vector(tokens[:, -1]), "tokens": tokens}

    def _ids(self, captions: Sequence[str]) -> Tensor:
        return self.tokenizer(captions).to(self.to_vector.weight.device)
