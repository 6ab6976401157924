"""The fixed prompts of a split, the data's own images for them, and disjoint sets of real images to compare with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from contracts import HasPrompts, Request
from evaluation.metrics.card import digest
from evaluation.metrics.images import to_uint8
from scenes.render import render

TRAIN_IMAGES = 10_000
DEFAULT_N = 512


@dataclass(frozen=True)
class PromptSet:
    """n prompts with their real images, and what else evaluators may ask for; None is what the data does not have.

    Args:
        captions, specs, labels: n entries, None where an image has none though others have one.
        real: uint8 (n, C, H, W), the data's own images for these prompts.
        reference: uint8 (n, C, H, W), n more real images, which share none with `real`.
        train, holdout: uint8, images that were trained on, and real ones that were not; None for data drawn afresh.
        reconstruction: uint8 (n, C, H, W), `real` through the model and back.
        likelihood: per-image columns (n,) in nats, of the model on `real`.
        likelihood_protocol: how the model computes them, for the cards.
        other_likelihoods: the same columns for images of other data, by its name.
        paired: False where `real` shows other things than the prompts say: then it is no control of what needs them.
    """

    split: str
    captions: list[str | None] | None
    specs: list[dict[str, Any] | None] | None
    labels: list[int | None] | None
    real: Tensor
    reference: Tensor | None
    reference_split: str | None
    train: Tensor | None = None
    holdout: Tensor | None = None
    holdout_split: str | None = None
    reconstruction: Tensor | None = None
    likelihood: dict[str, Tensor] | None = None
    other_likelihoods: dict[str, dict[str, Tensor]] | None = None
    likelihood_protocol: dict[str, Any] | None = None
    paired: bool = True

    def __len__(self) -> int:
        return len(self.real)

    def asked(self, conditioning: str) -> PromptSet:
        """The prompts as far as a family can be asked: without text, nothing can be judged against a caption.

        Args:
            conditioning: what the family draws from: text, label or none.
        Raises:
            ValueError: it needs captions or labels that the data does not have.
        """
        needed = {"text": "captions", "label": "labels"}.get(conditioning)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"the model draws from {needed}, and split {self.split} of its data has none")
        if conditioning == "text":
            return self
        return replace(self, captions=None, specs=None, labels=self.labels if conditioning == "label" else None)

    def request(self, indices: Sequence[int]) -> Request:
        """What sample() is asked for: these captions and labels, as far as there are any."""
        texts = None if self.captions is None else [self.captions[i] or "" for i in indices]
        labels = None if self.labels is None else [self.labels[i] for i in indices]
        return Request(len(indices), texts=texts, labels=labels)

    def identity(self, needs: Iterable[str] = ()) -> dict[str, Any]:
        """Digests of what a number rests on: the real images always, and of the other sets those it needs.

        Contents, not names: two evaluations of the same pictures may be compared wherever the pictures lie.
        """
        found: dict[str, Any] = {"real_images": pixels_digest(self.real)}
        for name in ("reference", "train", "holdout"):
            if name in needs and (image := getattr(self, name)) is not None:
                found[f"{name}_images"] = pixels_digest(image)
        for name in ("captions", "specs", "labels"):
            if name in needs and (values := getattr(self, name)) is not None:
                found[name] = digest(values)
        return found

    def select(self, rows: Sequence[int]) -> PromptSet:
        """Only these prompts, with as many reference images and without a model's reconstructions and likelihoods."""
        columns = {name: getattr(self, name) for name in ("captions", "specs", "labels")}
        return replace(
            self,
            **{name: values and [values[i] for i in rows] for name, values in columns.items()},
            real=self.real[list(rows)],
            reference=None if self.reference is None else self.reference[: len(rows)],
            reconstruction=None,
            likelihood=None,
            other_likelihoods=None,
            likelihood_protocol=None,
        )


def pixels_digest(image_u8: Tensor) -> str:
    """Twelve hex digits of uint8 images and their shape."""
    code = hashlib.blake2b(repr(tuple(image_u8.shape)).encode(), digest_size=6)
    code.update(image_u8.contiguous().numpy())
    return code.hexdigest()


def load_prompts(
    datamodule: Any, split: str, n: int | None, needs: Iterable[str] = (), train_images: int = TRAIN_IMAGES
) -> PromptSet:
    """The first n prompts of a split; a smaller n gives the start of the same list. None is 512, or as many as there are.

    Args:
        datamodule: set up; with `prompts(split, n)` (captioned scenes: any split of the grammar) or plain datasets
            (`train_dataset` for split `train`, and so on).
        needs: `train` and `holdout` are read only when named here; data drawn afresh has neither.
        train_images: at most so many training images, evenly spread over the split.
    Raises:
        ValueError: no such split, or fewer than n images in it.
    """
    if isinstance(datamodule, HasPrompts):
        return _scene_prompts(datamodule, split, n or DEFAULT_N)
    dataset = getattr(datamodule, f"{split}_dataset", None)
    if dataset is None:
        there = [name.removesuffix("_dataset") for name, part in vars(datamodule).items() if name.endswith("_dataset") and part]
        raise ValueError(f"this data has no split {split!r}; there are {', '.join(there)}")
    if n is None:
        n = min(DEFAULT_N, len(dataset))
    if len(dataset) < n:
        raise ValueError(f"n={n} exceeds the {len(dataset)} images of split {split!r}: pass n={len(dataset)} or less")
    items = [dataset[(i, sample_seed("prompt", split, i))] for i in range(n)]
    real = to_uint8(torch.stack([item["image"] for item in items]))
    other, reference = _reference(datamodule, split, n)
    train = _spread(datamodule.train_dataset, train_images, "train") if "train" in needs else None
    holdout_split, holdout = _holdout(datamodule, split, n, real, other) if "holdout" in needs else (None, None)
    return PromptSet(
        split=split,
        captions=[item["caption"] for item in items] if "caption" in items[0] else None,
        specs=[item["spec"] for item in items] if "spec" in items[0] else None,
        labels=[int(item["label"]) for item in items] if "label" in items[0] else None,
        real=real,
        reference=reference,
        reference_split=other,
        train=train,
        holdout=holdout,
        holdout_split=holdout_split,
    )


def _reference(datamodule: Any, split: str, n: int) -> tuple[str | None, Tensor | None]:
    """n images beside the prompts' own: of the same split if it has them, else of the training split."""
    dataset = getattr(datamodule, f"{split}_dataset")
    if len(dataset) >= 2 * n:
        return split, _images(dataset, range(n, 2 * n), f"reference {split}")
    if split != "train" and datamodule.train_dataset is not None and len(datamodule.train_dataset) >= n:
        return "train", _spread(datamodule.train_dataset, n, "reference")
    return None, None


def _holdout(
    datamodule: Any, split: str, n: int, real: Tensor, reference_split: str | None
) -> tuple[str | None, Tensor | None]:
    """At most n images that were not trained on; the prompts' own only where there are no others."""
    used = 2 * n if reference_split == split else n
    for name in dict.fromkeys([split, "test", "val"]):
        dataset = getattr(datamodule, f"{name}_dataset", None)
        first = used if name == split else 0
        if name != "train" and dataset is not None and len(dataset) > first:
            return name, _images(dataset, range(first, min(len(dataset), first + n)), "holdout")
    return (None, None) if split == "train" else (f"{split} (the prompts' own)", real)


def _spread(dataset: Any, count: int, tag: str) -> Tensor:
    """`count` images at even steps through a dataset, or all of a smaller one."""
    count = min(count, len(dataset))
    return _images(dataset, [i * len(dataset) // count for i in range(count)], tag)


def _images(dataset: Any, indices: Sequence[int], tag: str) -> Tensor:
    """uint8 (B, C, H, W), converted one by one: ten thousand float images would not fit everywhere."""
    images = [to_uint8(dataset[(i, sample_seed(tag, i))]["image"][None]) for i in indices]
    return torch.cat(images)


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
    """63-bit seed of one image from what names it, equal on every machine: a million images have a million seeds."""
    return int.from_bytes(hashlib.blake2b(repr(keys).encode(), digest_size=8).digest(), "little") >> 1
