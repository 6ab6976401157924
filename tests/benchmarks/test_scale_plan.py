"""The plan's arithmetic, by hand for a stage of round numbers, and its counts on nets whose operations are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import scale_plan
from benchmarks.scale_plan import Assumed, counted, forward_gflop, main, planned

STAGE = {"stage": "base", "parameters": 10**9, "gflop": 1000.0}
ROUND = Assumed(peak_tflops=1000.0, share=0.5, batch=1000, steps=86_400, network_gb=10.0, inside_gb=100.0, disk_gb=2.0, gpu_hours_a_failure=1600.0, dollars_a_gpu_hour=2.0)


def test_a_plan_by_hand() -> None:
    p = planned(STAGE, 16, ROUND)
    assert p["whole_gb"] == 20 and p["shared_gb"] == 1.25
    assert p["compute_sec"] == pytest.approx(1000 * 1e9 * 1000 / 16 / (0.5 * 1000 * 1e12))  # 0.125
    assert p["exchange_sec"] == pytest.approx(2 * 15 / 16 * 4 / 10)  # 0.75, longer than computing
    assert p["days"] == pytest.approx(0.75) and p["dollars"] == pytest.approx(0.75 * 24 * 16 * 2)
    assert p["failure_hours"] == 100 and p["save_sec"] == 8
    assert p["save_every_sec"] == pytest.approx(math.sqrt(2 * 8 * 360_000))


def test_one_machine_exchanges_within_it_and_computing_is_the_longer() -> None:
    p = planned(STAGE, 8, ROUND)
    assert p["exchange_sec"] == pytest.approx(2 * 7 / 8 * 4 / 100) and p["days"] == pytest.approx(p["compute_sec"]) == pytest.approx(0.25)


def test_the_best_interval_loses_least() -> None:
    p = planned(STAGE, 16, ROUND)

    def lost(every: float) -> float:
        return p["save_sec"] / every + every / 2 / (p["failure_hours"] * 3600)

    assert p["lost"] == pytest.approx(lost(p["save_every_sec"]))
    assert p["lost"] < min(lost(0.9 * p["save_every_sec"]), lost(1.1 * p["save_every_sec"]))


class Convolution(nn.Module):
    cond_channels, tokens_dim = 3, None

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x: Tensor, log_snr: Tensor, channels: Tensor) -> Tensor:
        return self.conv(torch.cat([x, channels], 1))


def test_operations_of_a_convolution() -> None:
    assert forward_gflop(Convolution(), 8, 1) == pytest.approx(2 * 64 * 9 * 6 * 5 / 1e9)


def test_every_stage_of_a_cascade_is_counted_at_its_size_in_training() -> None:
    base, upper = counted("imagen", tokens=4)
    assert (base["stage"], upper["stage"]) == ("base", "super_resolution") and 1e6 < base["parameters"] < 3e6
    assert base["gflop"] > 0 < upper["gflop"]
    with pytest.raises(ValueError, match="--model vae: it has no stages of pixels"):
        counted("vae")


def test_the_table_goes_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- scale_plan -->\n<!-- /scale_plan -->\n")
    monkeypatch.setattr(scale_plan, "PAGE", page)
    monkeypatch.setattr(scale_plan, "RESULTS", tmp_path)
    monkeypatch.setattr(scale_plan, "counted", lambda model: [STAGE])
    main(["--gpus", "8", "2048", "--share", "0.25", "--publish"])
    text = page.read_text()
    assert "| `base` | 8     | 256" in text and "| `base` | 2,048 | 1 " in text and "of which a step uses 25%" in text and text.split("<!-- /")[0].strip().endswith("hides the other.")
    assert (tmp_path / "scale_plan.json").is_file() and "`base`" in capsys.readouterr().out
