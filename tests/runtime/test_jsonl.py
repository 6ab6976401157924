"""The record is exact: rewinding drops what came after and what was torn."""

from __future__ import annotations

import json
from pathlib import Path

from runtime.jsonl import JsonlLogger, last_values


def test_rewind_drops_later_and_torn_lines(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path)
    for step in (1, 2, 3):
        log.log_metrics({"train/loss": 1 / step, "time/images_per_sec": 9.0}, step=step)
    log.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "train/lo')
    log.rewind(2)
    log.log_metrics({"train/loss": 1 / 3}, step=3)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert [json.loads(l)["step"] for l in (tmp_path / "timing.jsonl").read_text().splitlines()] == [1, 2]


def test_values_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    log = JsonlLogger(tmp_path)
    log.log_metrics({"train/loss": float("nan"), "val/loss": 2.0}, step=1)
    log.log_metrics({"train/loss": 1.5}, step=2)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert last_values(tmp_path) == {"step": 2, "train/loss": 1.5, "val/loss": 2.0}
