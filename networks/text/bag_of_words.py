"""The baseline that knows words but no order: how much of a result is due to the text encoder's understanding?"""
from __future__ import annotations

import hashlib
import re

import numpy as np
import torch
from torch import Tensor

from networks.text.base import TextEncoder

EMPTY = "\0"  # stands in for a caption without words


class BagOfWords(TextEncoder):
    """One fixed random vector of +1 and -1 a word, no position: captions with the same words in any order are the same.

    Words are runs of letters and digits, lower-cased; their vectors come from a hash, so there is no vocabulary to
    learn or store and every machine agrees. Tokens are sorted, repeated words stay. pooled is the mean of the tokens.

    Args:
        dim: width of a word's vector; two words have cosine 0 ± dim^-0.5.
    """

    revision = "1"

    def __init__(self, dim: int = 256, max_length: int = 128) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim, self.max_length = dim, max_length
        self.id = f"bag_of_words_{dim}"
        self._vectors: dict[int, np.ndarray] = {}

    def _load(self) -> None:
        return None

    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        return [sorted(map(self._token, re.findall(r"[^\W_]+", c.lower()) or [EMPTY])) for c in captions]

    def _truncate(self, ids: list[int]) -> list[int]:
        return ids[: self.max_length]

    def _token(self, word: str) -> int:
        """Token id of a word: 63 bits of its hash; its vector is remembered."""
        data = hashlib.shake_256(word.encode()).digest(8 + -(-self.dim // 8))
        token = int.from_bytes(data[:8], "little") >> 1
        if token not in self._vectors:
            bits = np.unpackbits(np.frombuffer(data[8:], np.uint8))[: self.dim]
            self._vectors[token] = bits.astype(np.float32) * 2 - 1
        return token

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        vectors = np.stack([self._vectors[i] for i in ids.flatten().tolist()])
        embeds = torch.from_numpy(vectors).to(ids.device).unflatten(0, ids.shape)  # (b, l, D)
        return embeds, embeds.mean(1)
