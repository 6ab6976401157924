"""Does an image fit its caption, as a CLIP model sees it? CLIP score in its two usual scalings, and R-precision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_n, check_u8
from evaluation.metrics.intervals import means
from scenes.scoring import wilson

PREFIX = "A photo depicts "
CANDIDATES = 100  # captions an image is compared with in R-precision, its own included


class _TextImage(Evaluator):
    """What the metrics share: unit embeddings of generated and real images and of captions, one row per image."""

    section = "text"
    higher_is_better = True
    needs = frozenset({"captions"})

    def __init__(self, clip: Any) -> None:
        self.clip, self.needs = clip, self.needs | clip.needs
        self.name += clip.suffix
        self.headlines = tuple(self._named(key) for key in self.headlines)

    def _named(self, key: str) -> str:
        """`clip_score_w2.5` -> `clip_score_scenes_w2.5` for a CLIP with the suffix `_scenes`."""
        stem = type(self).name
        return key.replace(stem, stem + self.clip.suffix, 1)

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        real, fake, captions = batch.real, batch.fake, batch.captions
        check_u8(real=real, fake=fake)
        if captions is None:
            raise NotComputed(f"{self.name} compares images with captions, and these images have none")
        if not len(captions) == len(fake) == len(real):
            raise ValueError(f"{len(captions)} captions for {len(fake)} generated and {len(real)} real images")
        captions = list(captions)
        images = {"fake": as_unit(self.clip(fake)), "real": as_unit(self.clip(real))}
        return images | {"caption": captions} | self._caption_columns(captions)

    def _caption_columns(self, captions: list[str]) -> dict[str, Any]:
        return {"text": as_unit(self.clip.text(captions))}

    def protocol(self) -> dict[str, Any]:
        return self.clip.describe()


class CLIPScore(_TextImage):
    """Cosine of image and caption, as `clip_score` (the mean of 100 cos) and as `clip_score_w2.5` (Hessel's CLIP-S).

    The two differ by more than their scale: `clip_score_w2.5` is the mean of 2.5 max(cos, 0) per image, and puts
    "A photo depicts" before every caption. Neither compares with another CLIP model's. `…_real` are the data's own
    images of the captions, `…_chance` the generated images with other prompts' captions. A score by the model that
    guided, reranked or taught the generator flatters it.

    Args: clip: `evaluation.extractors.clip_towers.CLIP`, or an object like it.
    Source: Hessel et al. 2021, section 3; unscaled as in Nichol et al. 2022 (GLIDE), Saharia et al. 2022 (Imagen)
    """

    name = "clip_score"
    headlines = ("clip_score", "clip_score_w2.5")

    def _caption_columns(self, captions: list[str]) -> dict[str, Any]:
        return super()._caption_columns(captions) | {
            "prefixed": as_unit(self.clip.text([PREFIX + c for c in captions])),
            "truncated": [bool(cut) for cut in self.clip.truncated(captions)],
        }

    def compute(self) -> dict[str, float]:
        check_n(self.name, len(self.rows), 1, "it has seen no images")
        values: dict[str, float] = {}
        for metric, text, score in (("clip_score", "text", percent), ("clip_score_w2.5", "prefixed", hessel)):
            captions = self.rows.column(text)
            metric = self._named(metric)
            values |= means({metric: score(cosines(self.rows.column("fake"), captions))})
            values[f"{metric}_real"] = float(score(cosines(self.rows.column("real"), captions)).mean())
            if len(self.rows) > 1:
                values[f"{metric}_chance"] = float(score(cosines(self.rows.column("fake"), shuffled(captions))).mean())
        return values

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"clip_score": "mean of 100 cos", "clip_score_w2.5": f"2.5 max(cos, 0), {PREFIX!r}"}

    def details(self) -> dict[str, Any]:
        """`…_truncated`: how many captions are longer than the model reads; `…_cosines` per image."""
        if not len(self.rows):
            return {}
        cos = cosines(self.rows.column("fake"), self.rows.column("text"))
        return {
            f"{self.name}_truncated": {"captions": sum(self.rows.column("truncated")), "of": len(self.rows)},
            f"{self.name}_cosines": [round(float(c), 5) for c in cos],
        }


class RPrecision(_TextImage):
    """Share of images that are nearer to their own caption than to each of 99 others of the same split.

    The others are captions of other wording, drawn once for each image by its index; chance is 1 %. Data whose captions
    repeat (class names) have too few different ones.

    Args: clip: `evaluation.extractors.clip_towers.CLIP`, or an object like it.
    Source: Xu et al. 2018 (AttnGAN), section 4; CLIP in place of their encoders as in Park et al. 2021
    """

    name = "r_precision"
    headlines = ("r_precision",)
    unit = "%"

    def compute(self) -> dict[str, float]:
        check_n(self.name, len(self.rows), 1, "it has seen no images")
        captions, text = self.rows.column("caption"), self.rows.column("text")
        first = {caption: i for i, caption in reversed(list(enumerate(captions)))}
        different = sorted(first)
        if len(different) < CANDIDATES:
            raise NotComputed(
                f"{self.name} picks among {CANDIDATES} different captions, and these {len(captions)} images have "
                f"{len(different)}: pass a larger n, or use data with a caption of its own for each image"
            )
        candidates = text[torch.tensor([first[c] for c in different])]  # (M, D)
        place = {caption: i for i, caption in enumerate(different)}
        own = [place[c] for c in captions]
        others = own[len(own) // 2 :] + own[: len(own) // 2]
        values = {}
        for suffix, image, target in (("", "fake", own), ("_real", "real", own), ("_chance", "fake", others)):
            hits = self._hits(self.rows.column(image), candidates, target)
            values[self.name + suffix] = hits / len(captions)
            if not suffix:
                values[f"{self.name}_low"], values[f"{self.name}_high"] = wilson(hits, len(captions))
                values[f"{self.name}_n"] = float(len(captions))
        return values

    def _hits(self, image: Tensor, candidates: Tensor, target: Sequence[int]) -> int:
        hits = 0
        for index, query, own in zip(self.rows.indices, image, target):
            among = candidates[[own, *distractors(index, own, len(candidates))]]
            cos = cosines(query.expand(CANDIDATES, -1), among)
            hits += bool((cos[1:] < cos[0]).all())  # a tie is no hit: a constant model knows nothing
        return hits

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"candidates": CANDIDATES}


def distractors(index: int, own: int, num_captions: int) -> list[int]:
    """CANDIDATES - 1 different numbers below num_captions other than `own`, fixed by the image's index."""
    key = hashlib.blake2b(f"r_precision {index}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    drawn = torch.randperm(num_captions - 1, generator=generator)[: CANDIDATES - 1].tolist()
    return [i + (i >= own) for i in drawn]


def as_unit(embeddings: Tensor) -> Tensor:
    """Rows of length one, float32."""
    return normalize(embeddings.double(), dim=1).float()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each pair of rows of unit length, float64 (N,)."""
    return (a.double() * b.double()).sum(1)


def percent(cos: Tensor) -> Tensor:
    return 100 * cos


def hessel(cos: Tensor) -> Tensor:
    return 2.5 * cos.clamp(min=0)


def shuffled(rows: Tensor) -> Tensor:
    """Each image's row replaced by that of a prompt half the set away; prompts come in random order."""
    return rows.roll(-(len(rows) // 2), 0)
