"""The classifier as a module of the house: it learns, resumes, is rebuilt from its checkpoint, and draws nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sample
import train
from evaluators.extractors.classifier import Classifier as Extractor
from evaluators.images import to_uint8
from runtime.checkpoint import load_module
from tests.datamodules.class_data import small_run, write_class_data
from tests.sessions import assert_same, contents


def overrides(tmp_path: Path, run: str, *more: str) -> list[str]:
    beside = ("callbacks.validate.every_steps=10", "model.net.dims=[16,16]")
    return small_run("classifier", tmp_path, run, *beside, *more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classifier")
    write_class_data(path / "data", "fashion_mnist", num_train=400, num_test=40)
    return path


@pytest.fixture(scope="module")
def trained(place: Path) -> dict:
    return train.main(overrides(place, "run", "trainer.max_steps=60", "model.net.dims=[32,32]"))


def test_it_learns_and_says_so(trained: dict, place: Path) -> None:
    assert trained["step"] == 60 and trained["images"] == 1200
    assert trained["val/accuracy"] > 0.9, "bars at ten heights"
    assert trained["val/loss"] < 1.6, "log 10 = 2.3 is guessing"
    assert {"train/loss", "train/accuracy"} <= set(trained)
    assert not (place / "run" / "samples").exists()


def test_its_checkpoint_alone_gives_features_and_scores(trained: dict, place: Path) -> None:
    module, config, info = load_module(place / "run")
    image = torch.rand(3, 1, 28, 28) * 2 - 1
    features, logits = module.features(image), module.logits(image)
    assert features.shape == (3, 32) and logits.shape == (3, 10) and not features.requires_grad
    assert torch.allclose(logits, module.net.head(features), atol=1e-5)
    assert info["weights"] == "ema" and len(info["sha256"]) == 64 and config.data.name == "fashion_mnist"
    with pytest.raises(ValueError, match=r"trained on images \(1, 28, 28\), got \(3, 32, 32\)"):
        module.features(torch.zeros(2, 3, 32, 32))


def test_the_extractor_reads_it(trained: dict, place: Path) -> None:
    image = torch.rand(5, 1, 28, 28) * 2 - 1
    extractor = Extractor(load_module, str(place / "run"))
    module = load_module(place / "run")[0]
    image_u8 = to_uint8(image)
    expected = module.features(image_u8.float() / 127.5 - 1)
    assert torch.allclose(extractor(image_u8), expected, atol=1e-4)
    assert torch.allclose(extractor.probabilities(image_u8).sum(1), torch.ones(5))


def test_it_draws_nothing_and_says_so(trained: dict, place: Path) -> None:
    module = load_module(place / "run")[0]
    assert module.example_conditions() == 0 and "draws no images" in module.sampling_refusal()
    with pytest.raises(ValueError, match="draws no images"):
        module.sample(1, seeds=[0])
    with pytest.raises(ValueError, match="a classifier draws no images") as error:
        sample.main([f"ckpt={place / 'run'}", f"out={place / 'out'}"])
    assert "\n" not in str(error.value) and not (place / "out").exists()


def test_a_resumed_run_is_a_run_that_never_stopped(place: Path) -> None:
    train.main(overrides(place, "whole", "trainer.max_steps=8"))
    train.main(overrides(place, "parts", "trainer.max_steps=3"))
    train.main([f"resume={place / 'parts'}", "trainer.max_steps=8"])
    whole, parts = (contents(place / run) for run in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks")  # the stop at step 3 validated and logged once more
    assert_same(whole, parts)
