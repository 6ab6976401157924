"""Does the image show the class it was drawn for? A classifier that never sees the class says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evaluation.extractors.base import FeatureExtractor
from evaluation.metrics.base import ImageBatch, Evaluator, NotComputed, check_u8
from evaluation.metrics.intervals import interval


class ClassAccuracy(Evaluator):
    """`class_accuracy`, the share of images of class-conditional models that a classifier takes for their class.

    Beside it stand the same share of real images of these classes (`…_real`: what the classifier's own errors leave, and
    no ceiling: a generator of nothing but typical images is above it) and what is expected of the same images with their
    classes dealt anew (`…_chance`). It says nothing of variety, which one image a class would not lower.

    Args:
        classifier: of the same classes in the same order, as `extractor=classifier` gives it.
        controls: False leaves out real images and chance.
    Source: Shmelkov et al. 2018 (GAN-test), section 3, with a classifier trained on training images
    """

    name = "class_accuracy"
    headlines = ("class_accuracy",)
    unit = "%"
    higher_is_better = True
    needs = frozenset({"labels"})
    section = "alignment"

    def __init__(self, classifier: FeatureExtractor, controls: bool = True) -> None:
        self.classifier, self.controls = classifier, controls

    def columns(self, batch: ImageBatch) -> dict[str, Any]:
        label = torch.as_tensor(batch.extra["labels"])
        sets = {"fake": batch.fake} | ({"real": batch.real} if self.controls else {})
        check_u8(**sets)
        columns = {name: self.classifier.probabilities(image).cpu() for name, image in sets.items()}
        classes = columns["fake"].shape[1]
        if int(label.max()) >= classes:
            raise NotComputed(f"the classifier knows {classes} classes, and the data has a class {int(label.max())}")
        return {"label": label} | {name: row.argmax(1) for name, row in columns.items()}

    def compute(self) -> dict[str, float]:
        if not (n := len(self.rows)):
            raise NotComputed("class_accuracy has seen no images")
        label, fake = self.rows.column("label"), self.rows.column("fake")
        right: Tensor = fake == label
        low, high = interval(right, share=True)
        values = {self.name: float(right.double().mean()), f"{self.name}_low": low, f"{self.name}_high": high}
        values[f"{self.name}_n"] = n
        if self.controls:
            values[f"{self.name}_real"] = float((self.rows.column("real") == label).double().mean())
            classes = int(max(label.max(), fake.max())) + 1
            asked, taken = (torch.bincount(c, minlength=classes).double() / n for c in (label, fake))
            values[f"{self.name}_chance"] = float(asked @ taken)
        return values

    def protocol(self) -> dict[str, Any]:
        return self.classifier.describe()
