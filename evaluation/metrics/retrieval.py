"""Does an embedding find the caption of an image, and the image of a caption, among many?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

RANKS = (1, 5, 10)


def retrieval(image: Tensor, text: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions: shares whose own partner is among so many nearest.

    Where others are as near as the own partner, the order among them is taken as drawn by lot: equal vectors score what a
    guess does. `chance_r1` is that score for the first place.

    Args: image, text: unit vectors (N, E), row i of one belonging to row i of the other.
    Raises: ValueError for fewer than 2 pairs.
    Source: Radford et al. 2021, table 13
    """
    if len(image) != len(text) or len(image) < 2:
        raise ValueError(f"retrieval needs as many images as captions and at least 2, got {len(image)} and {len(text)}")
    cosine = image.double() @ text.double().T
    found = {}
    for name, scores in (("image_to_text", cosine), ("text_to_image", cosine.T)):
        own = scores.diagonal()[:, None]
        nearer, as_near = (scores > own).sum(1), (scores == own).sum(1)
        found |= {f"{name}_r{k}": float(((k - nearer) / as_near).clamp(0, 1).double().mean()) for k in RANKS}
    return found | {"chance_r1": 1 / len(image)}


def classification(image: Tensor, text: Tensor, caption: Sequence[str]) -> float:
    """Share of images whose own caption is the nearest of all different captions; captions name classes.

    A tie counts as a guess among those that are as near.

    Args: image, text: unit vectors (N, E); caption: N captions.
    Source: Radford et al. 2021, section 3.1.2 (zero-shot classification)
    """
    first = distinct(caption)
    place = {caption[i]: k for k, i in enumerate(first.tolist())}
    own = torch.tensor([place[c] for c in caption])
    cosine = image.double() @ text[first].double().T  # (N, K)
    score = cosine.gather(1, own[:, None])
    as_near = (cosine == score).sum(1)
    return float(((cosine > score).sum(1) == 0).double().div(as_near).mean())


def distinct(keys: Sequence[Hashable], most: int | None = None) -> Tensor:
    """Places of the first of each key, in their order, at most so many: among them no image fits two captions."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return torch.tensor(list(first.values())[:most], dtype=torch.int64)
