"""Precision, recall, density, coverage against plain float64 distances, torch-fidelity and expectations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluation.metrics.precision_recall import PRDC, interval, prdc
from tests.evaluation.pixel_features import Pixels, fed, images, normal


def plain(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """The four from whole distance matrices, no products."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")

    balls = {name: distances(x, x).sort(1).values[:, k] for name, x in (("real", real), ("fake", fake))}
    across = distances(fake, real)
    inside = across <= balls["real"]
    return {
        "precision": float(inside.any(1).double().mean()),
        "recall": float((across <= balls["fake"][:, None]).any(0).double().mean()),
        "density": int(inside.sum()) / (k * len(fake)),
        "coverage": float(inside.any(0).double().mean()),
    }


@pytest.mark.parametrize("offset", [0.0, 5.0])  # far from 0, products in float32 are off by up to 0.1
@pytest.mark.parametrize(("n", "m", "dim"), [(300, 300, 8), (900, 700, 1000)])
def test_counts_are_those_of_exact_distances(n: int, m: int, dim: int, offset: float) -> None:
    real, fake = normal(n, dim, 0, torch.float32) + offset, 1.05 * normal(m, dim, 1, torch.float32) + offset
    found = {name: float(answers.mean()) for name, answers in prdc(real, fake).items()}
    assert found == pytest.approx(plain(real, fake), abs=1e-12)
    assert 0.02 < found["coverage"] < 1 and 0 < found["precision"] < 1


def test_precision_and_recall_are_torch_fidelitys() -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = normal(400, 16, 0, torch.float32), 0.8 * normal(400, 16, 1, torch.float32) + 0.2
    settings = {"prc_neighborhood": 3, "prc_batch_size": 10000, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(fake, real, **settings)
    found = {name: float(answers.mean()) for name, answers in prdc(real, fake, k=3).items()}
    assert found["precision"] == pytest.approx(theirs["precision"], abs=1e-7)
    assert found["recall"] == pytest.approx(theirs["recall"], abs=1e-7)


def test_expectation_for_one_distribution() -> None:
    """Density 1, coverage 1 - prod (N - i) / (2 N - i): 0.969 for N = 600, k = 5 (Naeem et al. 2020, section 3.3)."""
    found = [prdc(normal(600, 8, 2 * i), normal(600, 8, 2 * i + 1)) for i in range(4)]
    mean = {name: sum(float(f[name].mean()) for f in found) / 4 for name in found[0]}
    expected = 1 - torch.tensor([(600 - i) / (1200 - i) for i in range(1, 6)]).prod()
    assert mean["coverage"] == pytest.approx(float(expected), abs=0.015)
    assert mean["density"] == pytest.approx(1, abs=0.08)


def test_which_is_which() -> None:
    """A collapsed generator is precise and does not cover; the two have been swapped in libraries before."""
    real = normal(500, 8, 0)
    collapsed = 0.3 * normal(500, 8, 1)
    found = {name: float(answers.mean()) for name, answers in prdc(real, collapsed).items()}
    assert found["precision"] > 0.8 > 0.3 > found["recall"]


def test_copies_have_no_extent_and_lie_in_balls() -> None:
    real = normal(300, 8, 0)
    repeated = real[:20].repeat(15, 1)
    found = {name: float(answers.mean()) for name, answers in prdc(real, repeated).items()}
    assert found["precision"] == 1 and found["recall"] == pytest.approx(20 / 300) and found["coverage"] < 0.5


def test_evaluator_names_intervals_and_controls() -> None:
    sets = {"real": images(200, 0), "fake": images(200, 1, high=120), "reference": images(200, 2)}
    evaluator = fed(PRDC(Pixels()), **sets)
    values = evaluator.compute()
    assert evaluator.headlines[0] == "coverage_pixels_raw" and evaluator.section == "diversity"
    for part in ("precision", "recall", "density", "coverage"):
        key = f"{part}_pixels_raw"
        assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"] and values[f"{key}_n"] == 200
        assert values[f"{key}_real"] > values[key] or part == "precision"
    from scenes.scoring import wilson

    share = torch.tensor([1.0] * 8 + [0.0] * 2)
    assert interval(share, share=True) == pytest.approx(wilson(8, 10), abs=1e-9)


def test_intervals_are_wilsons_for_shares_and_normal_for_density() -> None:
    from scenes.scoring import wilson

    sets = {"real": images(200, 0), "fake": images(200, 1, high=250), "reference": images(200, 2)}
    evaluator = fed(PRDC(Pixels(), controls=False), **sets)
    values = evaluator.compute()
    answers = prdc(evaluator.rows.column("reference"), evaluator.rows.column("fake"))
    for part, found in answers.items():
        mean, error = float(found.mean()), float(found.std()) / 200**0.5
        expected = (mean - 1.96 * error, mean + 1.96 * error) if part == "density" else wilson(float(found.sum()), 200)
        assert (values[f"{part}_pixels_raw_low"], values[f"{part}_pixels_raw_high"]) == pytest.approx(expected, rel=1e-9)
    assert answers["density"].max() > 1
