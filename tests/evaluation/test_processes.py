"""Processes of an evaluation: alone without torchrun, and what a device is called."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.run_evaluators import ALONE, Ranks
from evaluation.processes import device_name, device_of, processes


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as ranks:
        assert ranks is ALONE and ranks.share(5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("gpu", "world", "expected"), [(False, 1, "cpu"), (True, 1, "cuda"), (True, 2, "cuda:1")])
def test_auto_is_the_gpu_of_the_process(gpu: bool, world: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert device_of("auto", Ranks(0, world)) == expected and device_of("cpu", Ranks(0, world)) == "cpu"


def test_the_name_counts_threads_and_processes() -> None:
    threads = torch.get_num_threads()
    assert device_name("cpu", ALONE) == f"CPU, {threads} threads"
    assert device_name("cpu", Ranks(0, 2)) == f"CPU, {threads} threads, 2 processes"
