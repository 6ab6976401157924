"""Two processes against one: the same run to rounding, also when the number changes on the way."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.sessions import contents, overrides, run

TWO = ("trainer.devices=2", "trainer.strategy=ddp_fork", "model.dropout=0", "trainer.max_steps=8")


def assert_close(a: dict, b: dict) -> None:
    for name, value in a["state_dict"].items():
        assert torch.allclose(value, b["state_dict"][name], atol=2e-6), name
    for name, value in a["ema"]["params"].items():
        assert torch.allclose(value, b["ema"]["params"][name], atol=2e-6), name
    assert a["counters"] == b["counters"]
    for x, y in zip(a["metrics"].splitlines(), b["metrics"].splitlines(), strict=True):
        x, y = json.loads(x), json.loads(y)
        assert list(x) == list(y)
        assert all(abs(x[key] - y[key]) < 1e-5 for key in x), (x, y)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides(*TWO[2:], run=tmp_path / "one"), log) == 0, log.read_text()
    assert run(overrides(*TWO, run=tmp_path / "two"), log) == 0, log.read_text()
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert_close(one, two)
    assert two["metrics"].count(b"\n") == one["metrics"].count(b"\n")  # process 0 alone writes


def test_a_batch_that_two_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides(*TWO, "data.batch_size=5", run=tmp_path / "run"), log) == 2
    assert "data.batch_size=5" in log.read_text() and "Traceback" not in log.read_text()
