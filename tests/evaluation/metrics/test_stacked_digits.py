"""Modes of stacked digits: a perfect generator has the expected numbers, one that draws a single triple has 1 and ln 1000."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from datamodules.stacked import StackedDataset
from evaluation.extractors.classifier import ClassifierFeatures
from evaluation.metrics.base import NotComputed
from evaluation.metrics.stacked_digits import StackedModes, count_modes, expected_by_chance

VALUES = ("modes_covered_stacked", "modes_kl_stacked_nats")


class Reader:
    """Reads a digit that is drawn as its brightness, twenty levels a digit."""

    def __init__(self, classes: int = 10) -> None:
        self.classes = classes

    def probabilities(self, image_u8: torch.Tensor) -> torch.Tensor:
        assert image_u8.shape[1:] == (1, 4, 4) and image_u8.dtype == torch.uint8
        return torch.nn.functional.one_hot(image_u8[:, 0, 0, 0].long() // 20, self.classes).float()

    def describe(self) -> dict:
        return {"extractor": "reader"}


def images(modes: torch.Tensor) -> torch.Tensor:
    """Numbers (N,) -> uint8 (N, 3, 4, 4)."""
    digits = torch.stack([modes // 100, modes // 10 % 10, modes % 10], 1)
    return (digits * 20).to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)


def drawn(n: int, seed: int = 0, below: int = 1000) -> torch.Tensor:
    return torch.randint(below, (n,), generator=torch.Generator().manual_seed(seed))


def judged(fake: torch.Tensor, real: torch.Tensor, batch: int = 1000, **arguments) -> dict[str, float]:
    evaluator = StackedModes(Reader(), **arguments)
    for start in range(0, len(fake), batch):
        part = slice(start, start + batch)
        evaluator.update(images(real[part]), images(fake[part]), None, indices=range(len(fake))[part])
    return evaluator.compute()


@pytest.mark.parametrize("n", [1000, 2600, 26_000])
def test_a_perfect_generator_has_what_is_expected(n: int) -> None:
    found = [count_modes(drawn(n, seed)) for seed in range(20)]
    expected = expected_by_chance(n)
    assert expected["covered"] == pytest.approx(1000 * (1 - 0.999**n), rel=1e-12)
    for key in expected:
        values = torch.tensor([f[key] for f in found], dtype=torch.float64)
        assert float(values.mean()) == pytest.approx(expected[key], abs=4 * float(values.std()) / 20**0.5 + 1e-6)
    assert expected_by_chance(26_000)["covered"] == pytest.approx(1000, abs=1e-6)
    # to first order the bias of an estimated entropy, (modes - 1) / 2n
    assert expected_by_chance(26_000)["kl_nats"] == pytest.approx(999 / 52_000, rel=0.01)


def test_one_triple_is_one_mode_and_as_far_from_the_data_as_can_be() -> None:
    values = judged(torch.full((2000,), 123), drawn(2000), batch=300)
    assert values["modes_covered_stacked"] == 1
    assert values["modes_kl_stacked_nats"] == pytest.approx(math.log(1000), rel=1e-12)
    assert values["modes_covered_stacked_real"] == pytest.approx(values["modes_covered_stacked_expected"], abs=30)
    assert values["modes_kl_stacked_nats_real"] == pytest.approx(values["modes_kl_stacked_expected_nats"], abs=0.05)


def test_half_of_the_modes_cost_ln_2_and_equal_counts_nothing() -> None:
    half = count_modes(torch.arange(500).repeat(10))
    assert half == {"covered": 500, "kl_nats": pytest.approx(math.log(2), rel=1e-12)}
    assert count_modes(torch.arange(1000)) == {"covered": 1000, "kl_nats": pytest.approx(0, abs=1e-12)}


def test_colours_are_read_in_their_order() -> None:
    modes = drawn(50)
    assert torch.equal(StackedModes(Reader()).modes(images(modes)), modes)


def test_batches_and_their_order_change_nothing_and_controls_can_be_left_out() -> None:
    fake, real = drawn(1500, 1, below=700), drawn(1500)
    whole = judged(fake, real, batch=1500)
    assert judged(fake, real, batch=170) == whole and whole["modes_covered_stacked_n"] == 1500
    bare = judged(fake, real, controls=False)
    assert bare == {k: v for k, v in whole.items() if not k.endswith("_real")}


def test_what_it_cannot_judge_is_said() -> None:
    few = images(drawn(100))
    evaluator = StackedModes(Reader())
    evaluator.update(few, few, None)
    with pytest.raises(NotComputed, match="n of at least 1000, got 100"):
        evaluator.compute()
    with pytest.raises(ValueError, match=r"real images \(1, 4, 4\) are no stacks of 3 digits"):
        StackedModes(Reader()).update(few[:, :1], few, None)
    with pytest.raises(NotComputed, match="knows 100 classes: name one of 10 digits"):
        StackedModes(Reader(classes=100)).update(few, few, None)
    nobody = ClassifierFeatures(load=lambda ckpt: pytest.fail("there is nothing to load"))
    remedy = r"train one \(train.py model=classifier\), pass classifier.ckpt=RUN; stacked digits need one of data=mnist"
    with pytest.raises(NotComputed, match=remedy):
        StackedModes(nobody).update(few, few, None)


def test_its_configurations_name_the_classifier() -> None:
    from runtime.build import instantiate
    from runtime.config import compose

    cfg = compose("evaluate", ["evaluator=stacked", "classifier.ckpt=somewhere"])
    (evaluator,) = (instantiate(node) for node in cfg.evaluator.values())
    assert evaluator.classifier.ckpt == "somewhere" and evaluator.controls
    cfg = compose("train", ["experiment=gan/stacked", "classifier.ckpt=somewhere"])
    callback = instantiate(cfg.callbacks.evaluate)
    assert callback.evaluators["stacked"].classifier.ckpt == "somewhere"
    assert callback.n <= cfg.data.num_val_images


@pytest.mark.slow
def test_a_trained_classifier_reads_the_data(tmp_path: Path) -> None:
    """The whole chain on the tests' own digits: train a classifier, name its run, judge the data itself."""
    from runtime.build import instantiate
    from runtime.config import compose
    from runtime.fit import fit
    from tests.datamodules.class_data import write_class_data

    paths = [f"paths.cache={tmp_path / 'cache'}", "data.num_val=40", "logger.wandb=null", "trainer=cpu"]
    run = ["model=classifier", "data=mnist", "trainer.max_steps=60", "data.batch_size=32", f"run_dir={tmp_path / 'run'}"]
    cfg = compose("train", [*run, *paths, "name=x", "callbacks.progress=null"])
    write_class_data(Path(cfg.data.root), "mnist", num_train=400, num_test=200)
    fit(cfg, None)
    data = instantiate(compose("train", ["model=gan", "data=stacked_mnist", *paths]).data)
    data.setup()
    real: StackedDataset = data.test_dataset
    batch = real.__getitems__([(i, i) for i in range(1200)])
    image = ((batch["image"] + 1) * 127.5).round().to(torch.uint8)
    (evaluator,) = (instantiate(node) for node in
                    compose("evaluate", ["evaluator=stacked", f"classifier.ckpt={tmp_path / 'run'}",
                                         "classifier.cache_dir=null"]).evaluator.values())  # fmt: skip
    assert (evaluator.modes(image) == batch["label"]).float().mean() > 0.97
    evaluator.update(image, image, None)
    values = evaluator.compute()
    assert values["modes_covered_stacked"] == pytest.approx(values["modes_covered_stacked_expected"], abs=40)
