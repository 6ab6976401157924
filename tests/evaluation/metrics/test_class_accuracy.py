"""Class accuracy: a generator that heeds its classes has 1, one that ignores them chance, and both beside real images."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.base import NotComputed
from evaluation.metrics.class_accuracy import ClassAccuracy
from scenes.scoring import wilson

N, CLASSES = 1000, 10


class Reader:
    """Reads an image's class from its brightness, twenty levels a class."""

    def __init__(self, classes: int = CLASSES) -> None:
        self.classes = classes

    def probabilities(self, image_u8: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(image_u8[:, 0, 0, 0].long() // 20, self.classes).float()

    def describe(self) -> dict:
        return {"extractor": "reader"}


def drawn(seed: int) -> torch.Tensor:
    return torch.randint(CLASSES, (N,), generator=torch.Generator().manual_seed(seed))


def images(classes: torch.Tensor) -> torch.Tensor:
    return (20 * classes).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)


def judged(label: torch.Tensor, fake: torch.Tensor, real: torch.Tensor, batch: int = N, **kwargs) -> dict[str, float]:
    evaluator = ClassAccuracy(Reader(), **kwargs)
    for start in range(0, N, batch):
        part = slice(start, start + batch)
        extra = {"labels": label[part].tolist(), "indices": range(N)[part]}
        evaluator.update(images(real[part]), images(fake[part]), None, **extra)
    return evaluator.compute()


def test_images_of_their_classes_are_all_right_and_asked_for_others_at_chance() -> None:
    label = drawn(0)
    values = judged(label, label, label)
    assert values["class_accuracy"] == values["class_accuracy_real"] == 1 and values["class_accuracy_n"] == N
    assert (values["class_accuracy_low"], values["class_accuracy_high"]) == wilson(N, N)
    assert values["class_accuracy_chance"] == pytest.approx(1 / CLASSES, abs=0.04)


def test_a_generator_that_ignores_its_classes_has_chance() -> None:
    values = judged(drawn(0), drawn(1), drawn(0))
    assert values["class_accuracy"] == pytest.approx(1 / CLASSES, abs=0.04) and values["class_accuracy_real"] == 1


def test_chance_does_not_depend_on_the_order_of_the_classes() -> None:
    """Classes in turns, as `sample.py` draws them: shifted by a half they would be the same classes again."""
    label = torch.arange(N) % CLASSES
    assert judged(label, label, label)["class_accuracy_chance"] == pytest.approx(1 / CLASSES, rel=1e-12)
    lopsided = torch.zeros(N, dtype=torch.long)
    lopsided[: N // 4] = 1  # asked for class 1 in a quarter, and draws it always
    assert judged(lopsided, torch.ones_like(label), label)["class_accuracy_chance"] == pytest.approx(1 / 4, rel=1e-12)


def test_each_error_counts_once_whatever_the_batches() -> None:
    label = drawn(0)
    fake, real = label.clone(), label.clone()
    fake[:37], real[5:12] = (fake[:37] + 1) % CLASSES, (real[5:12] + 3) % CLASSES
    values = judged(label, fake, real)
    assert values["class_accuracy"] == 1 - 37 / N and values["class_accuracy_real"] == 1 - 7 / N
    assert (values["class_accuracy_low"], values["class_accuracy_high"]) == wilson(N - 37, N)
    assert judged(label, fake, real, batch=170) == values
    bare = judged(label, fake, real, controls=False)
    assert bare == {k: v for k, v in values.items() if not k.endswith(("_real", "_chance"))}


def test_a_classifier_of_fewer_classes_and_no_images_are_no_number() -> None:
    evaluator = ClassAccuracy(Reader(12))
    with pytest.raises(NotComputed, match="has seen no images"):
        evaluator.compute()
    with pytest.raises(NotComputed, match="knows 12 classes, and the data has a class 12"):
        evaluator.update(images(drawn(0)[:2]), images(drawn(0)[:2]), None, labels=[0, 12])
