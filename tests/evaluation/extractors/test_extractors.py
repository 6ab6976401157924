"""What all extractors share: they can be chosen, and without weights they say so in one line and at once."""

from __future__ import annotations

import time

import pytest

from evaluation.extractors.dinov2 import DINOv2
from evaluation.extractors.inception import InceptionV3
from evaluation.extractors.open_clip import OpenCLIP
from evaluation.metrics.base import NotComputed
from runtime.build import instantiate
from runtime.config import compose
from tests.evaluation.pixel_features import images

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize(
    ("make", "what", "node"),
    [
        (InceptionV3, "Inception", "inception"),
        (OpenCLIP, "open_clip ViT-B-32/laion2b_s34b_b79k", "extractor"),
        (DINOv2, "timm vit_large_patch14_dinov2", "extractor"),
    ],
)
def test_without_weights_it_says_so_at_once_in_one_line(make, what: str, node: str) -> None:
    began = time.monotonic()
    with pytest.raises(NotComputed) as asked:
        make()(images(1, 0))
    assert str(asked.value) == (
        f"no {what} weights in the local cache: pass {node}.weights=FILE, "
        f"or allow the download with {node}.allow_download=true"
    )
    with pytest.raises(NotComputed) as offline:
        make(allow_download=True)(images(1, 0))
    assert f"no {what} weights in the local cache and no download (" in str(offline.value)
    with pytest.raises(NotComputed, match=f"nowhere.bin is not there: pass {node}.weights=FILE"):
        make(weights="nowhere.bin")(images(1, 0))
    assert time.monotonic() - began < 30  # packages are imported here for the first time


def test_extractors_without_classes_have_no_score() -> None:
    with pytest.raises(NotComputed, match="has no classes: use extractor=inception or extractor=classifier"):
        OpenCLIP().probabilities(images(1, 0))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "inception", "open_clip", "dinov2", "classifier"])
def test_every_extractor_can_be_chosen(name: str) -> None:
    cfg = compose("evaluate", [f"extractor={name}"])
    evaluator = instantiate(cfg.evaluator.fd)
    assert evaluator.extractor.cache.folder.name == "features"
    assert evaluator.name == evaluator.extractor.distance_name and (evaluator.name == "fid") == (name == "inception")


def test_a_classifiers_metrics_load_it_by_its_run() -> None:
    cfg = compose("evaluate", ["evaluator=classifier", "classifier.ckpt=no_such_run"])
    evaluator = instantiate(cfg.evaluator.is_classifier)
    assert instantiate(cfg.evaluator.fd_classifier).extractor.ckpt == "no_such_run"
    with pytest.raises(NotComputed, match="ckpt=no_such_run: no such file, run or name"):
        evaluator.extractor(images(1, 0))
