"""Captioned scenes, rendered on the fly: the data set is a list of specs, and every pass draws each of them anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset

from datamodules.base import ImageDataModule, to_model_range
from datamodules.sampler import Key
from rng.hashing import stable_hash
from scenes.captions import all_captions, caption
from scenes.grammar import SceneSpec, get_preset, random_word_spec, sample_spec
from scenes.render import render
from scenes.splits import caption_style, spec_split


EXAMPLE_PROMPTS = (
    "a small red circle left of a large blue square", "a large yellow square above a small green triangle",
    "a large purple triangle right of a small cyan circle", "three small blue triangles", "four small red squares", "two large green circles",
    'the word "CAT" in red', 'the word "SUN" in yellow',
)  # fmt: skip


class ScenesDataset(Dataset):
    """`dataset[(index, sample_seed)]`: index fixes the spec, sample_seed its wording, layout and colour jitter.

    An item holds `image` float32 (3, S, S) in [-1, 1], `caption`, `spec` (a dict, the ground truth) and `seed`.

    Args:
        splits: names of grammar splits; index i belongs to splits[i % len(splits)].
        tag: separates the specs of train, val and test within one split.
        spelling: share of the specs that are random strings of letters instead.
    """

    def __init__(
        self, preset: str, image_size: int, num_images: int, splits: Sequence[str], data_seed: int, tag: str, spelling: float = 0.0
    ) -> None:
        self.preset, self.image_size, self.num_images = preset, image_size, num_images
        self.splits, self.data_seed, self.tag, self.spelling = tuple(splits), data_seed, tag, spelling

    def __len__(self) -> int:
        return self.num_images

    def split(self, index: int) -> str:
        """The name of the split that sample `index` is drawn from."""
        return self.splits[index % len(self.splits)]

    def spec(self, index: int) -> SceneSpec:
        """The ground truth of sample `index`."""
        seed = stable_hash("spelling", self.tag, self.data_seed, index)
        if seed < self.spelling * 2**63:
            return random_word_spec(seed)
        return scene_spec(self.preset, self.split(index), self.tag, self.data_seed, index // len(self.splits))

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, seed = key
        spec = self.spec(index)
        image_u8, _ = render(spec, seed, self.image_size)
        text = caption(spec, seed, caption_style(self.split(index)), self.preset)
        return {"image": to_model_range(image_u8), "caption": text, "spec": spec.to_dict(), "seed": seed}


def scene_spec(preset: str, split: str, tag: str, data_seed: int, index: int) -> SceneSpec:
    """Spec number `index` of a split, as a pure function of its arguments."""
    return sample_spec(stable_hash("scenes", tag, split, data_seed, index), preset, split=split)


class ScenesDataModule(ImageDataModule):
    """Endless captioned scenes with exact ground truth; needs no download.

    Args:
        preset: `scenes` (all skills) or `scenes_simple` (one or two objects).
        num_images: specs in one pass; every pass renders each of them anew.
        num_val: images of validation and of test, spread evenly over `val_splits`.
        val_splits: names of grammar splits (scenes.splits.SPLITS): `iid` is like training, the others are not.
        data_seed: changes the specs; independent of the run's seed.
        spelling: share of the training images that show a random string of one to four letters, in place of a scene of the
            preset; held-out words are not among them.
    Raises: ValueError for an unknown preset or split, or a size out of range.
    """

    def __init__(
        self,
        preset: str = "scenes",
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        num_images: int = 50_000,
        num_val: int = 256,
        val_splits: Sequence[str] = ("iid",),
        data_seed: int = 0,
        spelling: float = 0.0,
    ) -> None:
        super().__init__(image_size=image_size, batch_size=batch_size, captioned=True, num_workers=num_workers)
        least = get_preset(preset).min_image_size
        if num_images < 1 or num_val < 1:
            raise ValueError(f"data.num_images and data.num_val must be at least 1, got {num_images} and {num_val}")
        if not least <= image_size <= 256:
            raise ValueError(f"data.image_size: preset {preset!r} is drawn at {least} to 256 pixels, got {image_size}")
        if not val_splits:
            raise ValueError("data.val_splits is empty: name at least one split, as in [iid]")
        for split in val_splits:
            spec_split(split)
        if not 0 <= spelling <= 1:
            raise ValueError(f"data.spelling={spelling}: give a share from 0 to 1")
        self.preset, self.num_images, self.num_val, self.spelling = preset, num_images, num_val, spelling
        self.val_splits, self.data_seed = tuple(val_splits), data_seed

    def setup(self, stage: str | None = None) -> None:
        common = (self.preset, self.image_size)
        self.train_dataset = ScenesDataset(*common, self.num_images, ("train",), self.data_seed, "train", self.spelling)
        self.val_dataset = ScenesDataset(*common, self.num_val, self.val_splits, self.data_seed, "val")
        self.test_dataset = ScenesDataset(*common, self.num_val, self.val_splits, self.data_seed, "test")

    def prompts(self, split: str, n: int) -> list[tuple[str, SceneSpec]]:
        """n fixed (caption, spec) pairs of a split for evaluation: the first k are the same for every n >= k."""
        specs = [scene_spec(self.preset, split, "prompts", self.data_seed, i) for i in range(n)]
        seeds = [stable_hash("prompt", split, self.data_seed, i) for i in range(n)]
        return [(caption(spec, seed, caption_style(split), self.preset), spec) for spec, seed in zip(specs, seeds)]

    def captions(self) -> tuple[int, Iterator[Sequence[str]]]:
        """Those of all scenes of a small preset; random strings, and captions with synonyms, have no end."""
        if self.spelling or get_preset(self.preset).rich_captions:
            return super().captions()
        found = all_captions(self.preset)
        return len(found), ((text,) for text in found)

    def example_prompts(self, n: int = 8) -> list[str]:
        """A few captions that ask for every skill."""
        return list(EXAMPLE_PROMPTS[:n])

    def fingerprint(self) -> str:
        """Digest of what training sees, with sixteen specs, so that a changed grammar is noticed too."""
        specs = [scene_spec(self.preset, "train", "train", self.data_seed, i).canonical() for i in range(16)]
        more = (self.spelling,) if self.spelling else ()  # none of what earlier runs had
        facts = (self.preset, self.image_size, self.num_images, self.data_seed, specs, *more)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()
