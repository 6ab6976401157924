"""CLIP's byte-pair tokenizer, whole or with the first of its merges alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WHOLE = 49_408  # tokens of CLIP's vocabulary
BYTES = 512  # of which each byte takes two: inside a word and at its end
MARKS = 2  # begin and end
MOST_KNOWN = 100_000  # captions whose tokens are kept


class BPETokenizer:
    """Captions to token numbers, by open_clip's own tokenizer.

    A vocabulary of fewer tokens keeps the first merges, which are the most frequent ones: rarer words become several
    tokens, and no caption becomes unknown. A small model needs no table of 49,408 rows.

    Args:
        vocab_size: tokens, `WHOLE` for CLIP's own numbers; fewer keep bytes, the first merges and the two marks.
        context_length: tokens of a caption, marks included; longer ones are cut and end with the mark.
    Raises: ValueError for a size that does not hold the bytes, or a length without room for a token.
    Source: Radford et al. 2021, section 2.4; Sennrich et al. 2016 (byte pairs)
    """

    def __init__(self, vocab_size: int = WHOLE, context_length: int = 77) -> None:
        if not BYTES + MARKS <= vocab_size <= WHOLE:
            raise ValueError(f"vocab_size={vocab_size}: from {BYTES + MARKS} to {WHOLE}")
        if context_length < 3:
            raise ValueError(f"context_length={context_length}: at least 3, for a token and the two marks")
        self.vocab_size, self.context_length = vocab_size, context_length
        self._open_clip: Any = None
        self._known: dict[str, list[int]] = {}

    @property
    def end(self) -> int:
        """Number of the mark at a caption's end, the largest of all."""
        return self.vocab_size - 1

    def tokens(self, caption: str) -> list[int]:
        """Numbers of a caption's tokens between its two marks, before anything is cut."""
        if caption not in self._known:
            if len(self._known) >= MOST_KNOWN:  # data that writes new captions without end
                self._known.clear()
            self._known[caption] = [self.vocab_size - MARKS, *self._tokenizer().encode(caption), self.end]
        return self._known[caption]

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """int64 (B, context_length), zeros behind the end."""
        ids = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        for row, caption in zip(ids, captions):
            tokens = self.tokens(caption)
            if len(tokens) > self.context_length:
                tokens = [*tokens[: self.context_length - 1], self.end]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads."""
        return [len(self.tokens(caption)) > self.context_length for caption in captions]

    def _tokenizer(self) -> Any:
        if self._open_clip is None:
            from open_clip.tokenizer import SimpleTokenizer

            tokenizer = SimpleTokenizer()
            kept = self.vocab_size - BYTES - MARKS
            tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < kept}
            tokenizer.cache = {}
            self._open_clip = tokenizer
        return self._open_clip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_clip": None, "_known": {}}
