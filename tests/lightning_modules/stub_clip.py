"""A CLIP without weights, for tests of what reads one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.frozen_clip import FrozenCLIP
from rng.hashing import stable_hash

SIZE, EMBED, TOKEN = 8, 6, 5


class StubCLIP(nn.Module):
    """Images by fixed projections of their pixels; captions by fixed vectors of their words, one token each after a mark."""

    image_size = SIZE

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.projection = nn.Parameter(torch.randn(3 * SIZE * SIZE, EMBED, generator=g))
        self.dropout = nn.Dropout(0.9)
        self.asked: list[tuple[str, int]] = []

    def embed_image(self, image: Tensor) -> Tensor:
        assert image.shape[1:] == (3, SIZE, SIZE) and not torch.is_autocast_enabled("cpu")
        self.asked.append(("image", len(image)))
        return F.normalize(self.dropout(image.flatten(1) @ self.projection), dim=1)

    def word(self, word: str, size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(stable_hash(word) % 2**31))

    def embed_tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        assert not torch.is_autocast_enabled("cpu")
        self.asked.append(("text", len(captions)))
        words = [["<start>", *caption.split()] for caption in captions]
        mask = torch.arange(max(map(len, words))) < torch.tensor([len(w) for w in words])[:, None]
        tokens = torch.full((*mask.shape, TOKEN), 7.0)  # what is behind a caption is to be looked at by nobody
        for row, chosen in zip(tokens, words):
            row[: len(chosen)] = torch.stack([self.word(w, TOKEN) for w in chosen])
        vector = torch.stack([sum(self.word(w, EMBED) for w in chosen) for chosen in words])
        return F.normalize(vector, dim=1), tokens, mask

    def embed_text(self, captions: Sequence[str]) -> Tensor:
        return self.embed_tokens(captions)[0]

    def pair_loss(self, image: Tensor, text: Tensor) -> Tensor:
        raise NotImplementedError

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        return [len(caption.split()) > 12 for caption in captions]


def stub(seed: int = 0, sha256: str = "abc", **options: Any) -> tuple[FrozenCLIP, StubCLIP, list[str]]:
    """The frozen CLIP over a stand-in, the stand-in, and what was asked for loading it."""
    model, asked = StubCLIP(seed), []

    def load(ckpt: str) -> tuple[StubCLIP, None, dict[str, str]]:
        asked.append(ckpt)
        return model, None, {"sha256": sha256}

    sizes = {"embed_dim": EMBED, "token_dim": TOKEN, "image_size": SIZE}
    return FrozenCLIP(**{**sizes, "ckpt": "run", "load": load} | options), model, asked
