"""Samples of an evaluation: seeds of their own, kept apart by everything that fixes them, drawn once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from contracts import Request
from evaluation.drawing import SampleDrawer, seeds
from evaluation.metrics.prompt_set import PromptSet, sample_seed
from evaluation.metrics.run_evaluators import ALONE, Ranks


def test_an_images_seed_is_of_its_number_and_its_split() -> None:
    assert seeds(0, "iid", [3, 1]) == [sample_seed(0, "iid", 3), sample_seed(0, "iid", 1)]
    every = seeds(0, "iid", range(50)) + seeds(1, "iid", range(50)) + seeds(0, "combo", range(50))
    assert len(set(every)) == 150


class Net(torch.nn.Module):
    """Draws its seed's level; remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, list[int], dict[str, Any]]] = []
        self.autocast: set[bool] = set()

    def sample(self, request: Request, *, seeds: list[int], num_steps: int | None = None) -> torch.Tensor:
        self.asked.append((request.n, seeds, {} if num_steps is None else {"num_steps": num_steps}))
        self.autocast.add(torch.is_autocast_enabled("cpu"))
        level = torch.tensor([seed % 200 for seed in seeds]).float() / 127.5 - 1
        return level[:, None, None, None].expand(-1, 1, 4, 4)


def make(out: Path, net: Net, ranks: Ranks = ALONE, **given: Any) -> SampleDrawer:
    cfg = {"seed": 3, "batch_size": 2, "num_steps": None, "guidance_scale": None, "sampler": None, "options": {}, "sweep": dict.fromkeys(("guidance_scale", "num_steps", "sampler", "stage"))} | given
    return SampleDrawer(OmegaConf.create(cfg), net, {"weights": "abc", "precision": "float32"}, out, "cpu", ranks)


def prompts(n: int = 5, split: str = "val") -> PromptSet:
    return PromptSet(split, None, None, None, torch.zeros(n, 1, 4, 4, dtype=torch.uint8), None, None)


def test_images_are_drawn_once_from_their_own_seeds(tmp_path: Path) -> None:
    net = Net()
    store = make(tmp_path, net).draw(prompts())
    assert net.asked == [(2, seeds(3, "val", [0, 1]), {}), (2, seeds(3, "val", [2, 3]), {}), (1, seeds(3, "val", [4]), {})]
    assert store.read([4])[0, 0, 0, 0] == sample_seed(3, "val", 4) % 200
    make(tmp_path, net).draw(prompts())
    assert len(net.asked) == 3, "all are on disk"
    make(tmp_path, net).draw(prompts(6))
    assert net.asked[3:] == [(1, seeds(3, "val", [5]), {})], "a larger n draws what is missing"


def test_other_options_and_splits_are_other_images(tmp_path: Path) -> None:
    net, places = Net(), []
    for given, split, more in (({}, "val", None), ({"num_steps": 4}, "val", None), ({"num_steps": 4}, "val", {"num_steps": 8}),
                               ({"num_steps": 8}, "val", None), ({}, "test", None)):  # fmt: skip
        places.append(make(tmp_path, net, **given).draw(prompts(1, split), more).folder)
    assert places[2] == places[3] and len(set(places)) == 4
    assert [options for _, _, options in net.asked] == [{}, {"num_steps": 4}, {"num_steps": 8}, {}]


def test_the_first_batch_of_a_process_is_not_warm_and_processes_share_the_images(tmp_path: Path) -> None:
    net = Net()
    store = make(tmp_path, net, Ranks(1, 2)).draw(prompts(7))
    assert [number for _, numbers, _ in net.asked for number in numbers] == seeds(3, "val", [1, 3, 5])
    assert [batch.warm for batch in store.timing()] == [False, True]


@pytest.mark.parametrize("chosen", ["float32", "bf16"])
def test_the_precision_is_that_of_the_samples(chosen: str, tmp_path: Path) -> None:
    net = Net()
    sampler = make(tmp_path, net)
    sampler.fixed = sampler.fixed | {"precision": chosen}
    sampler.draw(prompts(1))
    assert net.autocast == {chosen == "bf16"}
