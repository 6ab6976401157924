"""Does the image show what its caption says? Scenes are read back by a parser that never sees the caption."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_u8
from scenes.grammar import SceneSpec
from scenes.parser import VERSION, parse
from scenes.scoring import aggregate, score

CONTROLS = ("real", "reconstruction")
MAX_COUNT = 8  # the last row and column of the confusion of counts mean "this many or more"


class SceneAlignment(Evaluator):
    """Share of scenes that are right in presence, count, colour, shape, size, binding, relation, spelling, and in all.

    Every skill comes with a Wilson 95 % interval and two controls: `…_real`, the parser on the data's own images (what
    a perfect generator would score), and `…_chance`, the same images scored against other prompts' specs. Where the
    model can rebuild real images, `…_reconstruction` scores those: it parts what the decoder cannot draw from what the
    generator does not mean.
    `skills_mean` is the plain mean over the skills that apply, without `all_correct`.

    Source: Ghosh et al. 2023 (GenEval), section 3, with a closed-form parser in place of learned detectors.
    """

    name = "alignment"
    headlines = ("all_correct", "skills_mean")
    unit = "%"
    higher_is_better = True
    needs = frozenset({"specs"})
    section = "alignment"

    def __init__(self, controls: bool = True) -> None:
        self.controls = controls

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        real, fake = batch.real, batch.fake
        specs = [SceneSpec.from_dict(spec) for spec in batch.extra["specs"]]
        check_u8(real=real, fake=fake)
        if not len(specs) == len(fake) == len(real):
            raise ValueError(f"{len(specs)} specs for {len(fake)} generated and {len(real)} real images")
        sets = {"fake": fake}
        if self.controls:
            sets["real"] = real
            if (rebuilt := batch.extra.get("reconstruction")) is not None:
                sets["reconstruction"] = rebuilt
        columns: dict[str, list[Any]] = {"spec": specs}
        for name, images in sets.items():
            parsed = [parse(image) for image in _hwc(images)]
            columns[name] = [score(spec, scene) for spec, scene in zip(specs, parsed)]
            columns |= {"scene": parsed} if name == "fake" else {}
        return columns

    def compute(self) -> dict[str, float]:
        if not len(self.rows):
            raise NotComputed("alignment has seen no images")
        controls = {name: summary(self.rows.column(name)) for name in CONTROLS if name in self.rows.names}
        if self.controls and len(self.rows) > 1:
            controls["chance"] = summary(self._shuffled())
        values: dict[str, float] = {}
        for skill, row in summary(self.rows.column("fake")).items():
            values[skill] = row["mean"]
            values |= {f"{skill}_{key}": row[key] for key in ("low", "high", "n") if key in row}
            values |= {f"{skill}_{name}": rows[skill]["mean"] for name, rows in controls.items() if skill in rows}
        return values

    def _shuffled(self) -> list[dict[str, float]]:
        specs, scenes = self.rows.column("spec"), self.rows.column("scene")
        shift = len(specs) // 2  # the prompts are in random order, so any fixed pairing with others is a shuffle
        return [score(specs[(i + shift) % len(specs)], scene) for i, scene in enumerate(scenes)]

    def protocol(self) -> dict[str, Any]:
        return {"instrument": "scenes.parser", "version": VERSION, "resize": None}

    def details(self) -> dict[str, Any]:
        """`count_confusion[asked][found]` over object scenes, and `wrong`: per image, the skills below 1."""
        confusion = np.zeros((MAX_COUNT + 1, MAX_COUNT + 1), dtype=int)
        scores = self.rows.column("fake") if len(self.rows) else []
        pairs = zip(self.rows.column("spec"), self.rows.column("scene")) if len(self.rows) else ()
        for spec, scene in pairs:
            if spec.groups:
                asked = sum(group.count for group in spec.groups)
                confusion[min(asked, MAX_COUNT), min(len(scene.objects), MAX_COUNT)] += 1
        wrong = [[skill for skill, value in row.items() if value < 1 and skill != "all_correct"] for row in scores]
        return {"count_confusion": confusion.tolist(), "wrong": wrong, "scores": scores}


def summary(scores: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """{skill: {mean, n, low, high}} of per-image scores, `all_correct` first, with `skills_mean` after it.

    Source: Wilson 1927, through scenes.scoring.aggregate.
    """
    rows = aggregate(scores)
    skills = [skill for skill in rows if skill != "all_correct"]
    ordered = {"all_correct": rows["all_correct"]}
    if skills:
        ordered["skills_mean"] = {"mean": sum(rows[skill]["mean"] for skill in skills) / len(skills)}
    return ordered | {skill: rows[skill] for skill in skills}


def _hwc(image_u8: Tensor) -> np.ndarray:
    array = image_u8.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, C)
    return np.ascontiguousarray(array if array.shape[3] == 3 else array.repeat(3, axis=3))
