"""Fréchet distance against closed forms and against torch-fidelity and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluators.base import NotComputed
from evaluators.features import FeatureExtractor
from evaluators.frechet import FeatureStats, FrechetDistance, frechet_distance


def stats(features: Tensor) -> FeatureStats:
    made = FeatureStats(features.shape[1])
    made.update(features)
    return made


def distance(a: FeatureStats, b: FeatureStats) -> float:
    return frechet_distance(a.mean(), a.cov(), b.mean(), b.cov())


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_closed_form_of_diagonal_gaussians() -> None:
    mean = torch.zeros(3, dtype=torch.float64)
    shifted = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    a, b = (torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1.0, 4.0, 9.0], [4.0, 1.0, 16.0]))
    assert frechet_distance(mean, a, mean, b) == pytest.approx(3.0, abs=1e-10)
    assert frechet_distance(mean, a, shifted, b) == pytest.approx(4.0, abs=1e-10)


def test_invariances() -> None:
    a, b = normal(500, 16, 0), normal(400, 16, 1) @ torch.diag(torch.linspace(0.5, 2, 16, dtype=torch.float64))
    d = distance(stats(a), stats(b))
    rotation = torch.linalg.qr(normal(16, 16, 2))[0]
    assert distance(stats(b), stats(a)) == pytest.approx(d, rel=1e-8)
    assert distance(stats(a @ rotation + 5), stats(b @ rotation + 5)) == pytest.approx(d, rel=1e-8)
    assert distance(stats(3 * a), stats(3 * b)) == pytest.approx(9 * d, rel=1e-8)


@pytest.mark.parametrize("n", [40, 200, 1000])  # below, near and above the dimension
def test_agrees_with_torch_fidelity_and_torchmetrics(n: int) -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    a, b = stats(normal(n, 128, 0)), stats(1.2 * normal(n, 128, 1) + 0.1)
    own = distance(a, b)
    fidelity = fid_statistics_to_metric(
        {"mu": a.mean().numpy(), "sigma": a.cov().numpy()}, {"mu": b.mean().numpy(), "sigma": b.cov().numpy()}, False
    )
    assert own == pytest.approx(fidelity["frechet_inception_distance"], rel=2e-6, abs=1e-5)
    assert own == pytest.approx(float(_compute_fid(a.mean(), a.cov(), b.mean(), b.cov())), rel=2e-6, abs=1e-5)


def test_batches_and_merges_give_the_moments_of_the_whole() -> None:
    features = (30 + 0.05 * normal(1000, 8, 0)).float()  # float32 sums would be ten times off here
    parts = FeatureStats(8)
    for part in features.split(170):
        parts.merge(stats(part))
    torch.testing.assert_close(parts.cov(), torch.cov(features.double().T), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(parts.mean(), features.double().mean(0), rtol=1e-12, atol=0)


def test_same_set_is_zero_also_when_rank_deficient() -> None:
    few = stats(normal(20, 64, 0))
    assert abs(distance(few, few)) < 1e-5


class Pixels(FeatureExtractor):
    """Sixteen pixels as features."""

    id = "pixels"

    def _locate(self):
        return "none"

    def _load(self):
        return torch.nn.Identity()

    def resize_rule(self, height, width):
        return "none"

    def _features(self, net, image_u8):
        return image_u8[:, 0].flatten(1)[:, :16].float()


def images(n: int, seed: int, high: int = 256) -> Tensor:
    return torch.randint(0, high, (n, 3, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_evaluator_reports_the_floor_of_real_images_beside_the_value() -> None:
    evaluator = FrechetDistance(Pixels())
    for part in range(3):
        evaluator.update(images(100, part), images(100, 10 + part, high=120), None, reference=images(100, 20 + part))
    values = evaluator.compute()
    assert set(values) == {"fd_pixels", "fd_pixels_real", "fd_pixels_noise", "fd_pixels_n"}
    assert values["fd_pixels"] > 10 * values["fd_pixels_real"] > 0
    evaluator.reset()
    with pytest.raises(NotComputed, match="at least 128, got 0"):
        evaluator.compute()
    evaluator.update(images(127, 0), images(127, 1), None, reference=images(127, 2))
    with pytest.raises(NotComputed, match="at least 128, got 127"):
        evaluator.compute()


def test_evaluator_refuses_unequal_counts_and_sizes() -> None:
    evaluator = FrechetDistance(Pixels())
    with pytest.raises(ValueError, match="8 images, but 6 reference"):
        evaluator.update(images(8, 0), images(8, 1), None, reference=images(6, 2))
    with pytest.raises(ValueError, match="one size"):
        evaluator.update(images(8, 0), images(8, 1)[..., :2], None, reference=images(8, 2))
    with pytest.raises(ValueError, match="fake must be uint8"):
        evaluator.update(images(8, 0), images(8, 1).float(), None, reference=images(8, 2))
