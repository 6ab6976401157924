"""What a caption quotes as a condition, letter by letter: a text encoder's tokens do not say how a word is written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contracts import Batch
from networks.conditioners import Conditioner, Told, Value
from networks.text.quotes import quoted

FIRST, CHARACTERS = 32, 95  # the printable characters of ASCII; others share their numbers


class SpellingConditioner(Conditioner):
    """The letters between a caption's double quotes, as one vector and as a token each.

    Reads `caption` (list of B). The vector is a perceptron of the sum of one learned row for each letter at its place, so that it
    says which letter stands where; a caption without quotes adds nothing. A token is the sum of learned rows for the
    letter, its place from the start and its place from the end. Several quotes are one text with spaces between them.

    Args:
        emb_dim: width of the vector.
        tokens_dim: width of the tokens; None gives none.
        max_letters: that are read; further ones are left out.
    Raises: ValueError where a batch has no captions.
    Source: Liu et al. 2022 (Character-aware models improve visual text rendering), section 5: characters beside tokens
    """

    reads = "text"
    dropped_with = "text"  # what a caption says is dropped as a whole

    def __init__(self, emb_dim: int, tokens_dim: int | None = None, max_letters: int = 16) -> None:
        super().__init__()
        self.max_letters = max_letters
        self.at_place = nn.Embedding(max_letters * (CHARACTERS + 1), emb_dim)
        self.to_vector = nn.Sequential(nn.LayerNorm(emb_dim), nn.Linear(emb_dim, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        self.rows = None
        if tokens_dim:
            sizes = {"letter": CHARACTERS + 1, "start": max_letters, "end": max_letters + 1}
            self.rows = nn.ModuleDict({name: nn.Embedding(size, tokens_dim) for name, size in sizes.items()})
            self.norm = nn.LayerNorm(tokens_dim)

    def from_batch(self, batch: Batch) -> Value:
        if "caption" not in batch:
            raise ValueError("a model that reads how words are written needs captions: the batch has none")
        ids = torch.zeros(len(batch["caption"]), self.max_letters, dtype=torch.int64)
        for row, caption in zip(ids, batch["caption"]):
            letters = " ".join(quoted(caption))[: self.max_letters]
            row[: len(letters)] = torch.tensor([(ord(c) - FIRST) % CHARACTERS + 1 for c in letters], dtype=torch.int64)
        return {"letters": ids.to(self.at_place.weight.device)}

    def drop(self, value: Value, keep: Tensor) -> Value:
        """No letters where keep is False."""
        return {"letters": value["letters"] * keep[:, None]}

    def forward(self, value: Value) -> Told:
        ids = value["letters"]  # (B, max_letters), 0 = none
        there, place = ids > 0, torch.arange(self.max_letters, device=ids.device)
        count = there.sum(1, keepdim=True)  # (B, 1)
        rows = self.at_place(place * (CHARACTERS + 1) + ids) * there[..., None]
        told = {"vector": self.to_vector(rows.sum(1)) * (count > 0)}
        if self.rows is not None:
            tokens = self.rows["letter"](ids) + self.rows["start"](place) + self.rows["end"]((count - place).clamp(min=0))
            told |= {"tokens": self.norm(tokens), "token_mask": there}
        return told
