"""Modes covered and points in them: of real points, of collapsed and blurred generators, and of noise."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from evaluation.metrics.base import NotComputed
from evaluation.metrics.images import to_uint8
from evaluation.metrics.modes import ModeCoverage, coverage, mode_of
from tests.evaluation.pixel_features import fed

CONF = Path(__file__).parents[3] / "conf"


def mixture(name: str) -> tuple[Tensor, float]:
    conf = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    return torch.tensor(OmegaConf.to_container(conf.centres), dtype=torch.float64), conf.std


def drawn(name: str, n: int = 4000, seed: int = 0, spread: float = 1.0, modes: int | None = None) -> Tensor:
    """Points of the first `modes` modes, `spread` standard deviations wide."""
    centres, std = mixture(name)
    eps = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return centres[torch.arange(n) % (modes or len(centres))] + spread * std * eps


def images(points: Tensor) -> Tensor:
    return to_uint8(points.float()[:, :, None, None])


def test_a_point_belongs_to_the_nearest_mode_within_three_deviations() -> None:
    centres = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    points = torch.tensor([[0.0, 0.299], [0.0, 0.301], [0.26, 0.0], [0.24, 0.0], [0.5, -0.1], [0.25, 0.9]])
    assert mode_of(points, centres, 0.1).tolist() == [0, -1, 1, 0, 1, -1]
    assert mode_of(points, centres, 0.1, radius=4).tolist() == [0, 0, 1, 0, 1, -1]


def test_a_mode_is_covered_by_a_tenth_of_its_due() -> None:
    due = torch.tensor([0] * 400 + [1] * 10 + [2] * 9 + [-1] * (800 - 419))  # 8 modes: 100 are due
    assert coverage(due, 8) == {"modes_covered": 2 / 8, "modes_quality": 419 / 800}
    assert coverage(torch.full((50,), -1), 8) == {"modes_covered": 0.0, "modes_quality": 0.0}


@pytest.mark.parametrize(("name", "covered_by_one"), [("ring", 1 / 8), ("grid", 1 / 25)])
def test_generators_that_are_right_collapsed_blurred_or_noise(name: str, covered_by_one: float) -> None:
    centres, std = mixture(name)

    def judged(points: Tensor) -> tuple[float, float]:
        return tuple(coverage(mode_of(points, centres, std), len(centres)).values())

    assert judged(drawn(name)) == (1.0, pytest.approx(1 - math.exp(-4.5), abs=0.006))
    assert judged(drawn(name, modes=1)) == (covered_by_one, pytest.approx(0.989, abs=0.006))
    wide = judged(drawn(name, spread=3.0))
    assert wide == (1.0, pytest.approx(1 - math.exp(-0.5), abs=0.03))
    noise = torch.rand(4000, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    covered, quality = judged(noise)
    assert covered == 0 and 0 < quality < 0.03  # though a single point lies in nearly every mode
    assert len(mode_of(noise, centres, std).unique()) > 0.7 * len(centres)


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_bytes_cost_next_to_nothing(name: str) -> None:
    centres, std = mixture(name)
    points = drawn(name)
    rounded = images(points).flatten(1).double() / 127.5 - 1
    exact, coarse = (coverage(mode_of(p, centres, std), len(centres)) for p in (points, rounded))
    assert exact["modes_covered"] == coarse["modes_covered"] == 1
    assert abs(exact["modes_quality"] - coarse["modes_quality"]) < 0.01


def test_the_evaluator_says_the_same_with_controls_whatever_the_batches() -> None:
    centres, std = mixture("ring")
    fake, real = images(drawn("ring", modes=5, seed=1)), images(drawn("ring"))
    whole = fed(ModeCoverage(centres.tolist(), std), batch=4000, real=real, fake=fake)
    values = whole.compute()
    assert values["modes_covered"] == 5 / 8 and values["modes_covered_real"] == 1 and values["modes_covered_noise"] == 0
    assert values["modes_quality_low"] < values["modes_quality"] < values["modes_quality_high"]
    assert values["modes_quality"] == pytest.approx(values["modes_quality_real"], abs=0.02)
    assert values["modes_quality"] > 0.97
    assert values["modes_quality_noise"] < 0.03 and values["modes_covered_n"] == 4000
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(2)).tolist()
    parts = fed(ModeCoverage(centres.tolist(), std), batch=700, order=order, real=real, fake=fake)
    assert parts.compute() == values and parts.details() == whole.details()
    assert [n > 750 for n in whole.details()["good_points"]] == [True] * 5 + [False] * 3
    bare = fed(ModeCoverage(centres.tolist(), std, controls=False), real=real, fake=fake).compute()
    assert bare == {k: v for k, v in values.items() if not k.endswith(("_real", "_noise"))}


def test_what_it_cannot_judge_is_said() -> None:
    centres, std = mixture("ring")
    points = images(drawn("ring", n=100))
    with pytest.raises(NotComputed, match="n of at least 160, got 100: 20 points for each of 8 modes"):
        fed(ModeCoverage(centres.tolist(), std), real=points, fake=points).compute()
    with pytest.raises(ValueError, match=r"fake images \(3, 4, 4\) are no points of 2 coordinates"):
        ModeCoverage(centres.tolist(), std).update(points, torch.zeros(100, 3, 4, 4, dtype=torch.uint8), None)
    with pytest.raises(ValueError, match="std=0.001 are finer than bytes"):
        ModeCoverage(centres.tolist(), 0.001)


def test_its_configuration_takes_the_modes_from_the_data() -> None:
    from runtime.build import instantiate
    from runtime.config import compose

    for more, k in (([], 8), (["data@modes=grid"], 25)):
        cfg = compose("evaluate", ["evaluator=modes", *more])
        (evaluator,) = (instantiate(node) for node in cfg.evaluator.values())
        assert len(evaluator.centres) == k and evaluator.std == cfg.modes.std
