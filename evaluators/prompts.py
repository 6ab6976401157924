"""The fixed prompts of a split, with the data's own images for them and a disjoint set of real images as reference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators.images import to_uint8
from scenes.render import render


@dataclass(frozen=True)
class PromptSet:
    """n prompts; `reference` holds n more real images, or None where the data has no further n."""

    split: str
    captions: list[str] | None
    specs: list[dict[str, Any]] | None
    labels: list[int] | None
    real: Tensor  # uint8 (n, C, H, W)
    reference: Tensor | None
    reference_split: str | None

    def __len__(self) -> int:
        return len(self.real)


def load_prompts(datamodule: Any, split: str, n: int) -> PromptSet:
    """The first n prompts of a split; a smaller n gives the start of the same list.

    Args:
        datamodule: set up; with `prompts(split, n)` (captioned scenes: any split of the grammar) or plain datasets
            (`train`, `val`, `test`).
    Raises:
        ValueError: no such split, or fewer than n images in it.
    """
    if hasattr(datamodule, "prompts"):
        return _scene_prompts(datamodule, split, n)
    dataset = getattr(datamodule, f"{split}_dataset", None)
    if dataset is None:
        there = [name for name in ("train", "val", "test") if getattr(datamodule, f"{name}_dataset", None) is not None]
        raise ValueError(f"this data has no split {split!r}; there are {', '.join(there)}")
    if len(dataset) < n:
        raise ValueError(f"n={n} exceeds the {len(dataset)} images of split {split!r}: pass n={len(dataset)} or less")
    items = [dataset[(i, sample_seed("prompt", split, i))] for i in range(n)]
    other = split
    if len(dataset) >= 2 * n:
        reference = [dataset[(i, sample_seed("reference", split, i))]["image"] for i in range(n, 2 * n)]
    elif split != "train" and len(datamodule.train_dataset) >= n:
        other, step = "train", len(datamodule.train_dataset) // n
        reference = [datamodule.train_dataset[(i * step, sample_seed("reference", i))]["image"] for i in range(n)]
    else:
        reference, other = None, None
    return PromptSet(
        split=split,
        captions=[item["caption"] for item in items] if "caption" in items[0] else None,
        specs=[item["spec"] for item in items] if "spec" in items[0] else None,
        labels=[int(item["label"]) for item in items] if "label" in items[0] else None,
        real=to_uint8(torch.stack([item["image"] for item in items])),
        reference=to_uint8(torch.stack(reference)) if reference else None,
        reference_split=other,
    )


def _scene_prompts(datamodule: Any, split: str, n: int) -> PromptSet:
    pairs = datamodule.prompts(split, 2 * n)
    images = [
        torch.from_numpy(render(spec, sample_seed("real", split, i), datamodule.image_size)[0].copy()).permute(2, 0, 1)
        for i, (_, spec) in enumerate(pairs)
    ]
    real = torch.stack(images)  # (2n, 3, H, W)
    captions, specs = [caption for caption, _ in pairs[:n]], [spec.to_dict() for _, spec in pairs[:n]]
    return PromptSet(split, captions, specs, None, real[:n], real[n:], split)


def sample_seed(*keys: int | str) -> int:
    """32-bit seed of one image from what names it, equal on every machine and short enough to type."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=4).digest(), "little")
