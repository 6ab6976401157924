"""Letters beside tokens: what a caption quotes is also given letter by letter, each with its place."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from networks.text.base import TextEmbedding, TextEncoder, checked
from networks.text.quotes import quoted


class Letters(TextEncoder):
    """Another encoder's tokens, followed by one token for each letter that the caption quotes.

    A letter's token is the sum of four fixed random vectors of +1 and -1: of the letter, of its place from the start, of its place
    from the end, and of letter and place together, so that an average of the tokens still says which letter stands where.
    They come from a hash, so there is nothing to learn or store. The pooled vector is the other encoder's.
    A tokenizer makes one token of a common word, whose vector says little of its letters; letters alone read the
    rest of a caption badly, and both together do well.

    Args:
        encoder: the encoder whose tokens come first.
        dim: its width; None asks it, and may have to read its files.
    Source: Liu et al. 2022 (Character-aware models improve visual text rendering), section 5: character-level and token-level encoders together.
    """

    def __init__(self, encoder: TextEncoder, dim: int | None = None) -> None:
        super().__init__()
        self.encoder, self._dim = encoder, dim
        self._vectors: dict[str, np.ndarray] = {}

    id = property(lambda self: f"{self.encoder.id}+letters2")
    revision = property(lambda self: self.encoder.revision)
    max_length = property(lambda self: self.encoder.max_length)
    pooled_dim = property(lambda self: self.encoder.pooled_dim)

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return self.encoder.dim if self._dim is None else self._dim

    def to(self, device: torch.device | str) -> Letters:
        """Encode on this device from now on, and return self."""
        self.encoder.to(device)
        super().to(device)
        return self

    def encode(self, captions: Sequence[str]) -> TextEmbedding:
        """As `TextEncoder.encode`; letters beyond `max_length` are left out."""
        captions = checked(captions)
        self.note_lengths(captions, self.token_counts(captions))
        inner = self.encoder.encode(captions)
        lengths = inner.mask.sum(1).tolist()
        letters = [self._letters(c)[: max(0, self.max_length - n)] for c, n in zip(captions, lengths)]
        longest = max((n + len(rows) for n, rows in zip(lengths, letters)), default=1)
        embeds = inner.embeds.new_zeros(len(captions), longest, inner.embeds.shape[2])
        embeds[:, : inner.embeds.shape[1]] = inner.embeds[:, :longest]
        for row, (n, rows) in enumerate(zip(lengths, letters)):
            if rows:
                embeds[row, n : n + len(rows)] = torch.from_numpy(np.stack(rows)).to(embeds)
        ends = torch.tensor([n + len(rows) for n, rows in zip(lengths, letters)])
        mask = torch.arange(longest)[None] < ends[:, None]  # (B, L)
        return TextEmbedding(embeds, mask.to(embeds.device), inner.pooled)

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Count the tokens of each caption before truncation, letters included."""
        captions = checked(captions)
        return [n + sum(map(len, quoted(c))) for n, c in zip(self.encoder.token_counts(captions), captions)]

    def _letters(self, caption: str) -> list[np.ndarray]:
        return [
            self._vector("letter", letter) + self._vector("from the start", i) + self._vector("from the end", len(text) - i)
            + self._vector("both", letter, i)
            for text in quoted(caption)
            for i, letter in enumerate(text)
        ]

    def _vector(self, *key: object) -> np.ndarray:
        """A vector of +1 and -1, the same on every machine; remembered."""
        name = repr(key)
        if name not in self._vectors:
            data = hashlib.shake_256(name.encode()).digest(-(-self.dim // 8))
            self._vectors[name] = np.unpackbits(np.frombuffer(data, np.uint8))[: self.dim].astype(np.float32) * 2 - 1
        return self._vectors[name]

    def _load(self) -> None:
        return None

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        raise NotImplementedError("the tokens are the other encoder's")

    def _forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("the tokens are the other encoder's")
