"""Likelihood: nats, bits per dimension, the constant of a density."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from evaluation.metrics.base import NotComputed
from evaluation.metrics.likelihood import Likelihood, auroc, bits_per_dim
from tests.evaluation.pixel_features import images

DIM = 3 * 4 * 4


def test_a_uniform_density_is_eight_bits_either_way() -> None:
    """Over the bytes each has 1/256; over [-1, 1] the density is 1/2."""
    discrete = torch.tensor([DIM * math.log(256)], dtype=torch.float64)
    density = torch.tensor([DIM * math.log(2)], dtype=torch.float64)
    assert float(bits_per_dim(discrete, DIM, density=False)) == pytest.approx(8, abs=1e-12)
    assert float(bits_per_dim(density, DIM, density=True)) == pytest.approx(8, abs=1e-12)


def test_columns_become_means_with_intervals_whatever_the_batches() -> None:
    real, nats = images(50, 0), torch.linspace(100, 200, 50).double()
    evaluator = Likelihood()
    for part in (range(30, 50), range(30)):
        indices = list(part)
        columns = {"elbo_nats": nats[indices], "ode_density_nats": -nats[indices]}
        evaluator.update(real[indices], real[indices], None, indices=indices, likelihood=columns)
    values = evaluator.compute()
    half = 1.96 * float(nats.std()) / 50**0.5
    assert values["elbo_nats"] == pytest.approx(150) and values["elbo_nats_n"] == 50
    assert values["elbo_nats_high"] - values["elbo_nats"] == pytest.approx(half)
    assert values["elbo_bpd"] == pytest.approx(150 / (DIM * math.log(2)))
    assert values["ode_density_bpd"] == pytest.approx(7 - 150 / (DIM * math.log(2)))
    assert evaluator.headlines == ("elbo_bpd", "ode_density_bpd") and evaluator.higher_is_better is False


@pytest.mark.parametrize("binary", [True, False])
def test_the_card_says_whether_pixels_are_bytes_or_black_and_white(binary: bool) -> None:
    real, evaluator = images(4, 0), Likelihood()
    real = torch.where(real > 127, 255, 0).to(torch.uint8) if binary else real
    evaluator.update(real, real, None, indices=range(4), likelihood={"elbo_nats": torch.ones(4)})
    assert evaluator.protocol() == {"dimensions": DIM, "levels": 2 if binary else 256}


def test_one_impossible_image_is_not_averaged_away() -> None:
    real = images(3, 0)
    with pytest.raises(NotComputed, match="elbo_nats of image 12 is inf"):
        Likelihood().update(
            real, real, None, indices=[10, 11, 12], likelihood={"elbo_nats": torch.tensor([1.0, 2.0, torch.inf])}
        )
    with pytest.raises(NotComputed):
        Likelihood().update(real, real, None, likelihood={})
    with pytest.raises(NotComputed):
        Likelihood().compute()


def test_strangers_are_told_apart_by_rank() -> None:
    own, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0])
    assert auroc(own, other) == pytest.approx((1 + 0.5 + 3) / 6)
    assert auroc(own, own) == 0.5 and auroc(own, own + 9) == 1 and auroc(own, own - 9) == 0


def test_other_data_stands_beside_the_models_own() -> None:
    evaluator = Likelihood()
    prompts = SimpleNamespace(other_likelihoods={"mnist": {"elbo_nats": torch.full((4,), 150.0)}})
    evaluator.prepare(prompts)
    real = images(3, 0)
    evaluator.update(real, real, None, likelihood={"elbo_nats": torch.tensor([100.0, 140.0, 160.0])})
    assert evaluator.compute()["auroc_mnist"] == pytest.approx(2 / 3) and evaluator.higher_is_better["auroc_mnist"]
    hist = evaluator.details()["likelihood"]
    assert hist == {"column": "elbo_nats", "hist": {"own data": [100.0, 140.0, 160.0], "mnist": [150.0] * 4}}
    evaluator.prepare(SimpleNamespace(other_likelihoods=None))
    assert not evaluator.details() and "auroc_mnist" not in evaluator.compute()
    assert evaluator.higher_is_better is False and evaluator.unit == ""


def test_strangers_are_judged_by_the_last_column_alone() -> None:
    evaluator, real = Likelihood(), images(3, 0)
    others = {"mnist": {"elbo_nats": torch.full((4,), 999.0), "iwae_5_nats": torch.full((4,), 150.0)}}
    evaluator.prepare(SimpleNamespace(other_likelihoods=others))
    columns = {"elbo_nats": torch.tensor([1.0, 2.0, 3.0]), "iwae_5_nats": torch.tensor([100.0, 140.0, 160.0])}
    evaluator.update(real, real, None, likelihood=columns)
    assert evaluator.compute()["auroc_mnist"] == pytest.approx(2 / 3)
    assert evaluator.details()["likelihood"]["column"] == "iwae_5_nats"
