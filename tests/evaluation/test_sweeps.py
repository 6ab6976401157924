"""Sweeps: one option at a time, at every value the same prompts, its own images and its own cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from evaluation.metrics.prompt_set import PromptSet
from evaluation.metrics.run_evaluators import Ranks
from evaluation.sweeps import run_sweeps
from runtime.options import swept_option
from tests.judge import Brightness


class Cascade:
    """A model by its signature alone."""

    def sample(self, request: Any, *, seeds: Any, guidance_scale: float | dict[str, float] | None = None,
               num_steps: int | dict[str, int] | None = None, sampler: Any | None = None) -> None: ...  # fmt: skip


class SampleDrawer:
    """Images as bright as the option says; remembers what was drawn and what was counted."""

    device, module = "cpu", Cascade()

    def __init__(self, rank: int = 0) -> None:
        self.ranks, self.drawn, self.counted = Ranks(rank, 1), [], []

    def draw(self, prompts: Any, overrides: dict[str, Any]) -> SimpleNamespace:
        self.drawn.append(overrides)
        value = next(iter(overrides.values()))
        level = int(10 * (value["base"] if isinstance(value, dict) else value))
        return SimpleNamespace(read=lambda indices: prompts.real[indices] * 0 + level)

    def cost(self, prompts: Any, store: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        self.counted.append(overrides)
        steps = (overrides or {}).get("num_steps", 0)
        return {"nfe": 0 if isinstance(steps, dict) else 2 * steps, "sec_per_image": 0.1}


def config(stage: str | None = None, **swept: Any) -> Any:
    sweep = {"guidance_scale": None, "num_steps": None, "sampler": None, "stage": stage} | swept
    return OmegaConf.create({"guidance_scale": 2.0, "num_steps": None, "sampler": None, "sweep": sweep})


@pytest.fixture
def split() -> SimpleNamespace:
    real = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    return SimpleNamespace(prompts=PromptSet("iid", None, None, None, real, None, None))


def test_every_value_is_measured_with_its_own_images_and_cost(split) -> None:
    sampler = SampleDrawer()
    sweeps = run_sweeps(config(num_steps=[4, 8], guidance_scale=[1.5]), sampler, split, {"b": Brightness()}, "alpha")
    assert [(s.option, s.n, s.split, s.series) for s in sweeps] == [
        ("guidance_scale", 3, "iid", "alpha"), ("num_steps", 3, "iid", "alpha, guidance_scale 2.0"),
    ]  # fmt: skip
    assert sampler.drawn == sampler.counted == [{"guidance_scale": 1.5}, {"num_steps": 4}, {"num_steps": 8}]
    assert [(p["x"], p["nfe"], p["brightness"]) for p in sweeps[1].points] == [(4, 8, 40), (8, 16, 80)]
    assert sweeps[0].points[0]["brightness"] == 15


def test_a_sweep_of_one_stage_asks_that_stage(split) -> None:
    sampler = SampleDrawer()
    (sweep,) = run_sweeps(config(stage="base", num_steps=[4, 8]), sampler, split, {"b": Brightness()}, "alpha")
    assert sampler.drawn == [{"num_steps": {"base": 4}}, {"num_steps": {"base": 8}}]
    assert [(p["x"], p["brightness"]) for p in sweep.points] == [(4, 40), (8, 80)]


def test_process_0_alone_keeps_the_numbers(split) -> None:
    sweeps = run_sweeps(config(num_steps=[4]), SampleDrawer(rank=1), split, {"b": Brightness()}, "alpha")
    assert sweeps[0].points == []


def test_a_value_is_of_all_stages_or_of_one() -> None:
    for option, value, expected in (("num_steps", 8, 8), ("guidance_scale", 1.5, 1.5), ("guidance_scale", 2, 2.0)):
        found = swept_option(Cascade(), option, value)
        assert found == expected and type(found) is type(expected)
        assert swept_option(Cascade(), option, value, "base") == {"base": expected}
    assert swept_option(Cascade(), "sampler", "ddim")["_target_"].endswith("ddim")
