"""A classifier as a judge: its features and classes, of images like those it was trained on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.extractors.classifier import ClassifierFeatures
from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import FrechetDistance
from evaluation.metrics.inception_score import InceptionScore
from tests.evaluation.pixel_features import images


class Grey(nn.Module):
    """What a trained classifier offers."""

    channels = 1

    def features(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[1] == 1 and -1 <= image.min() and image.max() <= 1
        if image.shape[-1] != 4:
            raise ValueError("the classifier was trained on images (1, 4, 4)")
        return image.flatten(1)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        return 3 * image.flatten(1)[:, :10]


def test_classifier_gives_features_and_classes_of_grey_images() -> None:
    extractor = ClassifierFeatures(lambda ckpt: (Grey(), None, {"sha256": "ab" * 32}), ckpt="runs/x", id="digits")
    grey = images(3, 0)[:, :1]
    torch.testing.assert_close(extractor(grey), grey.flatten(1).float() / 127.5 - 1)
    torch.testing.assert_close(extractor(grey.expand(-1, 3, -1, -1)), extractor(grey))
    assert extractor.probabilities(grey).shape == (3, 10)
    assert FrechetDistance(extractor).name == "fd_digits" and InceptionScore(extractor).name == "is_digits"
    assert extractor.describe()["extractor_sha256"] == "ab" * 32
    with pytest.raises(NotComputed, match="trained on grey images"):
        extractor(images(2, 1))
    with pytest.raises(NotComputed, match="trained on images"):
        extractor(images(2, 1, side=8)[:, :1])


def test_classifier_that_is_none_is_not_computed() -> None:
    def missing(ckpt: str) -> None:
        raise FileNotFoundError(f"ckpt={ckpt}: no such file")

    with pytest.raises(NotComputed, match="no classifier is named: train one .* classifier.ckpt=RUN"):
        ClassifierFeatures(missing)(images(1, 0))
    with pytest.raises(NotComputed, match="cannot be had: ckpt=nowhere: no such file"):
        ClassifierFeatures(missing, ckpt="nowhere")(images(1, 0))
    with pytest.raises(NotComputed, match="is no classifier"):
        ClassifierFeatures(lambda ckpt: (nn.Identity(), None, {"sha256": ""}), ckpt="runs/x")(images(1, 0))


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    extractor = ClassifierFeatures(lambda ckpt: (Grey(), None, {"sha256": "ab" * 32}), ckpt="runs/x")
    grey = images(3, 0)[:, :1]
    expected = (3 * (grey.flatten(1)[:, :10].float() / 127.5 - 1)).softmax(1)
    torch.testing.assert_close(extractor.probabilities(grey), expected)
    assert extractor.resize_rule(4, 6) == "none (4, 6)"
