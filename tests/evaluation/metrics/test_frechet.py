"""Fréchet distance against closed forms and against torch-fidelity and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluation.extractors.feature_cache import FeatureCache
from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import (
    FeatureStats,
    FrechetDistance,
    FrechetInfinity,
    frechet_distance,
    frechet_of_features,
    reference_stats,
)
from evaluation.metrics.prompt_set import PromptSet
from tests.evaluation.pixel_features import Pixels, fed, images, normal


def stats(features: Tensor) -> FeatureStats:
    made = FeatureStats(features.shape[1])
    made.update(features)
    return made


def distance(a: FeatureStats, b: FeatureStats) -> float:
    return frechet_distance(a.mean(), a.cov(), b.mean(), b.cov())


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


@pytest.mark.parametrize("n", [40, 200, 1000])
def test_features_and_moments_give_one_distance(n: int) -> None:
    a, b = normal(n, 128, 0), 1.2 * normal(n, 128, 1) + 0.1
    assert frechet_of_features(a, b) == pytest.approx(distance(stats(a), stats(b)), rel=1e-9, abs=1e-5)
    assert frechet_of_features(a, b) == pytest.approx(frechet_of_features(b, a), rel=1e-9)
    assert abs(frechet_of_features(a, a)) < 1e-5


@pytest.mark.parametrize("n", [500, 1000])
def test_bias_of_two_samples_of_one_distribution(n: int) -> None:
    """About d² / 2n: the floor that every value is read against."""
    found = [frechet_of_features(normal(n, 128, 2 * i), normal(n, 128, 2 * i + 1)) for i in range(3)]
    assert sum(found) / 3 == pytest.approx(128**2 / (2 * n), rel=0.1)


def test_extrapolation_takes_the_bias_away() -> None:
    """Two Gaussians with a true distance of 4: at n = 2000 the plain value is 1 too high."""
    shift = torch.zeros(64).double()
    shift[0] = 2
    evaluator = FrechetInfinity(Pixels(64))
    reference, fake, same = normal(2000, 64, 0), normal(2000, 64, 1) + shift, normal(2000, 64, 2)
    judge = evaluator.against(reference)
    plain, found = frechet_of_features(reference, fake), judge(fake)["fd_inf_pixels_raw"]
    assert plain > 4.7 and found == pytest.approx(4, abs=0.4)
    assert judge(same)["fd_inf_pixels_raw"] == pytest.approx(0, abs=0.15)
    curve = evaluator.details()["fd_inf_pixels_raw_curve"]
    assert curve["n"][0] == 500 and curve["n"][-1] == 2000 and len(curve["value"]) == 8
    assert curve["r2"] > 0.97 and curve["fit"][0] == found
    assert judge(fake) == {"fd_inf_pixels_raw": found}  # subsets have their own seed


def test_extrapolation_draws_nothing_from_the_global_state() -> None:
    reference, fake, found = normal(1200, 8, 0), normal(1200, 8, 1) + 0.5, []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(FrechetInfinity(Pixels(8)).against(reference)(fake))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


def test_extrapolation_wants_a_thousand_images() -> None:
    evaluator = fed(FrechetInfinity(Pixels()), real=images(999, 0), fake=images(999, 1), reference=images(999, 2))
    with pytest.raises(NotComputed, match="at least 1000, got 999"):
        evaluator.compute()
    assert evaluator.details() == {}


def test_against_all_training_images_with_moments_kept_by_content() -> None:
    train = images(3000, 5)
    prompts = PromptSet("test", None, None, None, images(200, 0), None, None, train=train)
    extractor = Pixels()
    extractor.cache = FeatureCache()
    evaluator = FrechetDistance(extractor, reference="train")
    assert evaluator.needs == {"train"} and evaluator.protocol()["reference"] == "train"
    evaluator.prepare(prompts)
    fed(evaluator, real=prompts.real, fake=images(200, 1, high=100))
    found = evaluator.compute()["fd_pixels_raw"]
    features = (train.flatten(1)[:, :16].float() / 255).double()
    assert found == pytest.approx(frechet_of_features(features, evaluator.rows.column("fake")), rel=1e-9)
    before = extractor.computed
    again = reference_stats(extractor, train)
    assert extractor.computed == before and again.n == 3000
    torch.testing.assert_close(again.mean(), features.mean(0), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="reference='val'"):
        FrechetDistance(extractor, reference="val")


def test_moments_of_one_extractor_are_not_anothers() -> None:
    cache, train, stored = FeatureCache(), images(300, 5), []
    for weights in ("one", "two"):
        extractor = Pixels(sha256=weights)
        extractor.cache = cache
        extractor._features = lambda net, image, scale=len(stored) + 1: scale * image.flatten(1)[:, :16].float()
        stored.append(reference_stats(extractor, train).mean())
    torch.testing.assert_close(stored[1], 2 * stored[0])


def test_batches_and_order_change_no_digit() -> None:
    sets = {"real": images(200, 0), "fake": images(200, 1, high=200), "reference": images(200, 2)}
    one = fed(FrechetDistance(Pixels()), batch=200, **sets).compute()
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1)).tolist()
    assert fed(FrechetDistance(Pixels()), batch=7, order=shuffled, **sets).compute() == one


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


def test_evaluator_reports_the_floor_of_real_images_beside_the_value() -> None:
    evaluator = FrechetDistance(Pixels())
    for part in range(3):
        evaluator.update(images(100, part), images(100, 10 + part, high=120), None, reference=images(100, 20 + part))
    values = evaluator.compute()
    assert set(values) == {"fd_pixels_raw", "fd_pixels_raw_real", "fd_pixels_raw_noise", "fd_pixels_raw_n"}
    assert values["fd_pixels_raw"] > 10 * values["fd_pixels_raw_real"] > 0
    assert values["fd_pixels_raw_noise"] < 2 * values["fd_pixels_raw_real"]  # these real images are noise
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
