"""The speed of one stage: what is counted and what is divided by what, on a net of a size that a test can afford."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import throughput
from benchmarks.throughput import Settings, batch_of, config_of, gflop_per_image, main, measure, median_sec, stage_of, table

SMALL = Settings(model="imagen", batch=2, tokens=3, precision="fp32", seconds=0.01, sample_steps=1)


def test_widths_are_scaled_in_whole_heads_and_an_unknown_stage_is_named() -> None:
    whole, half = config_of(Settings()), config_of(Settings(width=0.5))
    assert [(whole.net[name], half.net[name]) for name in throughput.WIDTHS] == [(512, 256), (2048, 1024), (2048, 1024)]
    assert config_of(Settings(width=0.01)).net.dim == 64
    with pytest.raises(ValueError, match="--model imagen --stage decoder: it has no such stage of pixels; it has base, super_resolution"):
        config_of(Settings(model="imagen", stage="decoder"))
    with pytest.raises(ValueError, match="it has no stages"):
        config_of(Settings(model="vae"))


def test_operations_are_those_of_one_image_forward_and_backward() -> None:
    stage, batch = stage_of(SMALL, "cpu").train(), batch_of(SMALL, "cpu")
    found = gflop_per_image(stage, batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stage.loss(batch, torch.full((SMALL.batch,), 0.5), "count")
    forward = counter.get_total_flops() / 1e9 / SMALL.batch
    assert 2.7 * forward < found < 3 * forward, "a backward pass is two products for each of the forward pass, but for the first layers"
    assert all(p.grad is None for p in stage.parameters())


def test_a_step_trains_every_parameter() -> None:
    stage, batch = stage_of(SMALL, "cpu").train(), batch_of(SMALL, "cpu")
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    step = throughput.training_step(stage, batch, SMALL, "cpu")
    for _ in range(3):  # what stands behind a layer of zeros has no gradient in the first, and what stands behind two of them in the second
        step()
    assert [name for name, p in stage.named_parameters() if torch.equal(p, before[name])] == []


def test_a_median_leaves_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, took = [0.0], iter([100.0, 1.0, 5.0, 3.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(took)

    assert median_sec(work, 0.1, "cpu") == 3.0


@pytest.mark.parametrize("stage", ["base", "super_resolution"])
def test_the_command_writes_what_it_measured(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "T5_XXL", throughput.T5_XXL | {"d_model": 16, "d_ff": 16, "num_heads": 2, "vocab_size": 8})
    words = ["--model", "imagen", "--stage", stage, "--batch", "2", "--tokens", "3", "--precision", "fp32", "--seconds", "0.01", "--sample-steps", "1"]
    more = ["--text-layers", "2", "--peak-tflops", "2", "--trace", str(tmp_path / "trace.json"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(throughput, "device_here", lambda: "cpu")
    main([*words, *more])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["way"] for row in found["rows"]] == ["plain", "checkpointed"]
    for row in found["rows"]:
        assert row["tflops"] == pytest.approx(row["images_a_second"] * found["gflop_per_image"] / 1000)
        assert row["share_of_peak"] == pytest.approx(row["tflops"] / row["peak_tflops"]) and row["memory_gib"] is None and row["waits"] is None
    assert found["text"]["whole"] == pytest.approx(found["text"]["captions_a_second"] * 2 / 24)
    assert found["sampling"]["num_steps"] == {"base": 16, "super_resolution": 12}[stage]
    assert "not seen" in capsys.readouterr().out and "traceEvents" in (tmp_path / "trace.json").read_text()


def test_drawing_is_counted_at_the_steps_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "device_here", lambda: "cpu")
    monkeypatch.setattr(throughput, "median_sec", lambda work, seconds, device: 0.5)
    monkeypatch.setattr(throughput, "gflop_per_image", lambda stage, batch: 3.0)
    found = measure(Settings(model="imagen", batch=4, sample_steps=8, precision="fp32"), ["plain"])
    assert found["sampling"]["images_a_second"] == 4 / (0.5 * 16 / 8)
    assert found["rows"][0]["tflops"] == 4 / 0.5 * 3 / 1000 and found["text"] is None
    assert f"{4 / 0.5 * 3 / 1000 / 2:.0%}" in table(found, SMALL, 2.0)
