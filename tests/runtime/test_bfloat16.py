"""The precision that a CPU is faster in."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from runtime import bfloat16
from runtime.bfloat16 import cpu_prefers_bf16, product_sec, sampling_precision


@pytest.fixture(autouse=True)
def fresh():
    cpu_prefers_bf16.cache_clear()
    yield
    cpu_prefers_bf16.cache_clear()


@pytest.mark.parametrize(("half", "prefers"), [(0.5, True), (0.79, True), (0.85, False), (1.7, False)])
def test_a_cpu_with_the_hardware_is_asked_by_its_clock(half: float, prefers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(bfloat16, "product_sec", lambda dtype: half if dtype == torch.bfloat16 else 1.0)
    assert cpu_prefers_bf16() == prefers


def test_without_the_hardware_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bfloat16.FLAGS:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(bfloat16, "product_sec", lambda dtype: pytest.fail("measured"))
    assert cpu_prefers_bf16() is False


def test_the_least_of_the_tries_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 1.0, 9.0, 10.0, 13.0, 20.0, 22.0, 30.0, 35.0, 40.0, 44.0])
    monkeypatch.setattr(bfloat16.time, "perf_counter", lambda: next(clock))
    assert product_sec(torch.float32) == 2.0


@pytest.mark.parametrize(
    ("choice", "trained", "quick", "expected"),
    [("bf16", "32-true", False, "bf16"), ("float32", "bf16-mixed", True, "float32"), ("auto", "32-true", True, "float32"),
     ("auto", "bf16-mixed", True, "bf16"), ("auto", "bf16-mixed", False, "float32"), ("auto", None, True, "bf16")],
)  # fmt: skip
def test_precision_is_chosen_or_that_of_training(choice, trained, quick, expected, monkeypatch) -> None:
    monkeypatch.setattr(bfloat16, "cpu_prefers_bf16", lambda: quick)
    assert sampling_precision(choice, OmegaConf.create({"trainer": {"precision": trained}}), "cpu") == expected
    assert sampling_precision("auto", OmegaConf.create({}), "cpu") == "float32"
