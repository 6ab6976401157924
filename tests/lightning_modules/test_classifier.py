"""The classifier as a module of the house: it learns, resumes, is rebuilt from its checkpoint, and draws nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import sample
import train
from contracts import Request
from evaluation.extractors.classifier import ClassifierFeatures as Extractor
from evaluation.metrics.images import to_uint8
from lightning_modules.classifier import Classifier
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


class Scores(torch.nn.Module):
    """Scores of three classes that do not depend on the image, in half precision; features that are not scores."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]]).bfloat16()[: len(image)]

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return torch.arange(8.0).view(2, 4).bfloat16()[: len(image)]


def test_loss_and_accuracy_are_their_definitions() -> None:
    module = Classifier(Scores(), 4, 1, 3, label_smoothing=0.3)
    batch = {"image": torch.zeros(2, 1, 4, 4), "label": torch.tensor([0, 2])}
    log_p = torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]]).log_softmax(1)
    plain = -(log_p[0, 0] + log_p[1, 2]) / 2
    smooth = 0.7 * plain - 0.3 * log_p.mean()
    losses = module.train().losses(batch)
    torch.testing.assert_close(losses["loss"], smooth)
    assert losses["accuracy"] == 0.5 and losses["loss"].dtype == torch.float32
    torch.testing.assert_close(module.eval().losses(batch)["loss"], plain)


def test_features_and_scores_are_float32_of_images_of_the_trained_size() -> None:
    module = Classifier(Scores(), 4, 1, 3)
    image = torch.zeros(2, 1, 4, 4)
    assert torch.equal(module.features(image), torch.arange(8.0).view(2, 4))
    assert torch.equal(module.logits(image), torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, 1.0]]))
    for judge in (module.features, module.logits):
        for wrong in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 8)):
            with pytest.raises(ValueError, match=r"trained on images \(1, 4, 4\)"):
                judge(wrong)


def test_a_classifier_asks_for_no_grids() -> None:
    module = Classifier(Scores(), 4, 1, 3)
    assert module.example_request().n == 0 and "draws no images" in module.sampling_refusal()


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
    assert module.example_request().n == 0 and "draws no images" in module.sampling_refusal()
    with pytest.raises(ValueError, match="draws no images"):
        module.sample(Request(1), seeds=[0])
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
