"""What all text encoders share: the result they return, batching, padding, and how they treat long prompts."""
from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BATCH_SIZE = 64


@dataclass(frozen=True)
class TextEmbedding:
    """The vectors of a frozen text encoder for B captions, padded to the longest of them.

    Args:
        embeds: (B, L, D) float32, one vector a token, zero where `mask` is False.
        mask: (B, L) bool, True = real token; every row has at least one.
        pooled: (B, P) float32, one vector a caption; P is `TextEncoder.pooled_dim`, nearly always D.
    """

    embeds: Tensor
    mask: Tensor
    pooled: Tensor

    def to(self, device: torch.device | str) -> TextEmbedding:
        """Return the same embedding on another device."""
        return TextEmbedding(*(x.to(device, non_blocking=True) for x in (self.embeds, self.mask, self.pooled)))

    def __len__(self) -> int:
        return len(self.mask)


class TextEncoder(ABC):
    """A frozen text encoder: a plain object, not an nn.Module, so that it never lands in a state_dict.

    Constructing one touches neither disk nor network; weights come with the first use. Subclasses give `id`,
    `revision`, `dim`, `max_length`, `_load`, `_tokenize` and `_forward`; everything else is here.
    """

    id: str  # name of the encoder, with every setting that changes the vectors
    revision: str  # which weights
    dim: int
    max_length: int

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._loaded: Any = None
        self._too_long: set[int] = set()

    @property
    def pooled_dim(self) -> int:
        """Width of `TextEmbedding.pooled`."""
        return self.dim

    @property
    def truncated(self) -> int:
        """How many different captions have been cut to `max_length` so far."""
        return len(self._too_long)

    @abstractmethod
    def _load(self) -> Any:
        """Return what `_tokenize` and `_forward` need (found as `self.loaded`), on the CPU."""

    @abstractmethod
    def _tokenize(self, captions: list[str]) -> list[list[int]]:
        """Return token ids, special tokens included, not truncated, at least one a caption."""

    @abstractmethod
    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Map ids (b, l) on `self.device`, all of them real tokens, to embeds (b, l, D) and pooled (b, P)."""

    def _truncate(self, ids: list[int]) -> list[int]:
        """Cut to `max_length`, keeping the last token: the end-of-text mark of every encoder here."""
        return ids if len(ids) <= self.max_length else ids[: self.max_length - 1] + ids[-1:]

    @property
    def loaded(self) -> Any:
        """Weights and tokenizer, read on first use."""
        if self._loaded is None:
            self._loaded = self._load()
            self._move()
        return self._loaded

    def _move(self) -> None:
        """Bring loaded modules to `self.device`."""
        for part in self._loaded if isinstance(self._loaded, tuple) else (self._loaded,):
            if isinstance(part, torch.nn.Module):
                part.to(self.device)

    def to(self, device: torch.device | str) -> TextEncoder:
        """Encode on this device from now on, and return self."""
        self.device = torch.device(device)
        if self._loaded is not None:
            self._move()
        return self

    def encode(self, captions: Sequence[str]) -> TextEmbedding:
        """Encode captions; a caption's vectors do not depend on its neighbours (to 1e-5).

        Args:
            captions: B strings, "" allowed. Longer ones than `max_length` tokens are cut, with one warning a run.
        Raises:
            ValueError: captions is a bare string or holds something else than strings.
        """
        captions = checked(captions)
        ids = self._tokenize(captions) if captions else []
        self.note_lengths(captions, [len(i) for i in ids])
        ids = [self._truncate(i) for i in ids]
        lengths = torch.tensor([len(i) for i in ids], dtype=torch.long)
        longest = max(lengths.tolist(), default=1)
        # Made outside inference mode: inference tensors cannot be saved for a backward pass through later layers.
        embeds = torch.zeros(len(ids), longest, self.dim, device=self.device)
        pooled = torch.zeros(len(ids), self.pooled_dim, device=self.device)
        for rows in equal_length_batches(lengths.tolist()):
            with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
                out, out_pooled = self._forward(torch.tensor([ids[i] for i in rows], device=self.device))
                embeds[rows, : out.shape[1]] = out.float()  # (b, l, D)
                pooled[rows] = out_pooled.float()
        mask = torch.arange(longest)[None] < lengths[:, None]  # (B, L)
        return TextEmbedding(embeds, mask.to(self.device), pooled)

    def token_counts(self, captions: Sequence[str]) -> list[int]:
        """Count the tokens of each caption before truncation, special tokens included."""
        captions = checked(captions)
        return [len(i) for i in self._tokenize(captions)] if captions else []

    def note_lengths(self, captions: Sequence[str], counts: Sequence[int]) -> None:
        """Remember the captions that are longer than `max_length`, and warn about the first."""
        for caption, count in zip(captions, counts):
            if count > self.max_length:
                if not self._too_long:
                    warnings.warn(self._too_long_line(caption, count) + "; cut there, and so will others be",
                                  stacklevel=3)
                self._too_long.add(hash(caption))

    def check_length(self, prompts: Sequence[str], *, strict: bool = True) -> int:
        """Return how many prompts are too long for this encoder.

        Raises:
            ValueError: strict, and a prompt has more than `max_length` tokens.
        """
        prompts = checked(prompts)
        too_long = [(p, n) for p, n in zip(prompts, self.token_counts(prompts)) if n > self.max_length]
        if too_long and strict:
            raise ValueError(self._too_long_line(*too_long[0]) + "; shorten it")
        return len(too_long)

    def _too_long_line(self, caption: str, count: int) -> str:
        shown = caption if len(caption) <= 60 else caption[:57] + "..."
        return f"prompt has {count} tokens, text encoder {self.id} reads at most {self.max_length}: {shown!r}"

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles (spawned ranks) read the weights again when they need them.
        return {**self.__dict__, "_loaded": None}


def checked(captions: Sequence[str]) -> list[str]:
    """Return captions as a list of encodable strings (lone surrogates of broken JSON become "?").

    Raises:
        ValueError: a bare string, or an entry that is no string.
    """
    if isinstance(captions, str):
        raise ValueError(f"captions must be a list of strings, got the bare string {captions[:60]!r}: put it in a list")
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"captions must be strings, got {type(caption).__name__}: {caption!r}")
    return [c.encode("utf-8", "replace").decode() for c in captions]


def equal_length_batches(lengths: list[int]) -> list[list[int]]:
    """Group row numbers by length, at most `BATCH_SIZE` a group.

    There is then no padding inside the network: a caption does not depend on the others, and padding costs no time.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or len(batches[-1]) == BATCH_SIZE or lengths[batches[-1][0]] != lengths[row]:
            batches.append([])
        batches[-1].append(row)
    return batches
