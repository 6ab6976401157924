"""What the metrics are for: corruptions of real scenes come out in the right order, on the real extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.kernel_distance import mmd2, polynomial
from evaluation.metrics.precision_recall import prdc
from evaluation.metrics.sliced_wasserstein import sliced_wasserstein2
from scenes.grammar import sample_spec
from scenes.render import render

N = 200


def scenes(seed: int) -> Tensor:
    """Real renders, uint8 (N, 3, 32, 32)."""
    drawn = [render(sample_spec(10_000 * seed + i, "scenes_simple"), i, 32)[0] for i in range(N)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def blur(image_u8: Tensor, sigma: float) -> Tensor:
    x = torch.arange(-4, 5).float()
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = F.pad(image_u8.float(), (4, 4, 4, 4), mode="replicate")
    return F.conv2d(padded, kernel.expand(3, 1, 9, 9), groups=3).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def features() -> dict[str, Tensor]:
    extractor, real = EfficientNetLite0(), scenes(1)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    sets = {
        "reference": scenes(0),
        "real": real,
        "blur .5": blur(real, 0.5),
        "blur 1": blur(real, 1.0),
        "noise .2": (real + 0.2 * 255 * noise).round().clamp(0, 255).to(torch.uint8),
        "repeated": real[: N // 10].repeat(10, 1, 1, 1),
    }
    return {name: extractor(image_u8) for name, image_u8 in sets.items()}


def test_every_distance_orders_corruptions(features: dict[str, Tensor]) -> None:
    reference = features["reference"]
    rms = reference.square().mean().sqrt()
    distances = {
        "fd": lambda f: frechet_of_features(reference, f),
        "kd": lambda f: mmd2(reference / rms, f / rms, polynomial(1280))[0],
        "sw2": lambda f: float(sliced_wasserstein2(reference, f).mean()),
    }
    for name, distance in distances.items():
        real, half, one, noise = (distance(features[key]) for key in ("real", "blur .5", "blur 1", "noise .2"))
        assert 1.2 * max(real, 0) < half and 1.3 * half < one and 2 * max(real, 0) < noise, name
        assert name != "fd" or 1.2 * one < noise


def test_coverage_and_recall_see_that_images_repeat(features: dict[str, Tensor]) -> None:
    found, fresh = (prdc(features["reference"], features[name]) for name in ("repeated", "real"))
    mean = {name: float(answers.mean()) for name, answers in found.items()}
    assert mean["recall"] < 0.05 and mean["coverage"] < 0.5
    assert mean["precision"] == pytest.approx(float(fresh["precision"].mean()), abs=0.12)
    assert float(fresh["coverage"].mean()) > 0.9 and float(fresh["recall"].mean()) > 0.9
