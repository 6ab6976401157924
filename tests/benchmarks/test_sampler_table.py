"""The table of samplers: cheap cells first, what is measured is kept, and the sentence says what the numbers say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import train
from benchmarks import sampler_table
from benchmarks.sampler_table import SAMPLERS, calls, cells, earlier, main, sentence, table
from tests.datamodules.class_data import write_class_data


def test_cells_go_from_few_calls_to_many() -> None:
    found = cells(["ddpm", "heun"], [5, 10, 250], most=250)
    assert found == [("ddpm", 5), ("heun", 5), ("ddpm", 10), ("heun", 10), ("ddpm", 250)]
    assert calls("heun", 10) == calls("edm", 10) == 19 and calls("unipc", 10) == 10


def _cell(fd: float, calls_: float) -> dict[str, float]:
    return {"fd": fd, "calls": calls_, "sec_per_image": 0.1, "cpu_sec_per_image": 0.05}


def test_sentence_follows_the_numbers() -> None:
    found = {"ddpm/250": _cell(10.0, 250), "ddpm_large/250": _cell(12.0, 250), "ddpm/20": _cell(1.0, 20)}
    assert sentence(found).startswith("Not measured")
    found |= {"heun/10": _cell(10.2, 19), "dpmpp_2m/20": _cell(11.0, 20), "ddim/50": _cell(5.0, 50)}
    text = sentence(found)
    assert "best is heun at 10 steps (19 calls): 10.20, +2.0 % beside the 10.00" in text
    assert "(ddpm) at 250 steps, within 3 %" in text
    found["heun/10"] = _cell(10.4, 19)
    assert "+4.0 %" in sentence(found) and "not within 3 %" in sentence(found)
    text = table({"cells": found, "floor": 0.5})
    assert "10.40 (19, 0.05 s)" in text and "Real images reach 0.50" in text


def test_cells_of_another_measurement_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    assert earlier(out, {"n": 5}) == {}
    out.write_text(json.dumps({"what": {"n": 5}, "cells": {"ddim/5": _cell(1, 5)}}))
    assert list(earlier(out, {"n": 5})) == ["ddim/5"]
    with pytest.raises(ValueError, match="holds another n"):
        earlier(out, {"n": 6})
    with pytest.raises(ValueError, match="only settings of the data"):
        main(["--ckpt", "x", "--out", str(out), "model.lr=1"])


@pytest.mark.slow
def test_end_to_end_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_data(tmp_path / "data", "fashion_mnist", num_train=60, num_test=24)
    page = tmp_path / "diffusion.md"
    page.write_text("before\n<!-- sampler_table -->\n<!-- /sampler_table -->\nafter\n")
    monkeypatch.setattr(sampler_table, "PAGE", page)
    small = ["net.dim=8", "net.head_dim=4", "net.emb_dim=8", "trainer=cpu", "trainer.max_steps=1", "data.num_val=10"]
    quiet = ["callbacks.validate=null", "callbacks.samples=null", "logger.wandb=null", "data.batch_size=4"]
    where = f"data.root={tmp_path / 'data'}"
    train.main(["model=edm", "data=fashion_mnist", f"run_dir={tmp_path / 'run'}", where, *small, *quiet])
    files = ["--out", str(tmp_path / "table.json"), "--picture", str(tmp_path / "plot.png")]
    command = ["--ckpt", str(tmp_path / "run"), "--n", "12", "--batch", "8", "--most-calls", "4", *files, "--steps", "2"]
    main([*command, "--samplers", "ddpm", "heun", "--", where])
    first = json.loads((tmp_path / "table.json").read_text())["cells"]
    assert {k: cell["calls"] for k, cell in first.items()} == {"ddpm/2": 2, "heun/2": 3}
    main([*command, "3", "--", where])  # all samplers
    found = json.loads((tmp_path / "table.json").read_text())["cells"]
    at_most_four = {f"{name}/{steps}" for name in SAMPLERS for steps in (2, 3) if calls(name, steps) <= 4}
    assert {k: found[k] for k in first} == first and set(found) == at_most_four
    assert {"heun/2", "edm/2"} <= set(found) and not {"heun/3", "edm/3"} & set(found), "of three steps they make five calls"
    assert {k: cell["calls"] for k, cell in found.items()} == {k: calls(*_split(k)) for k in found}
    assert f"2 of {len(found)} cells are measured already" in capsys.readouterr().err
    assert "| unipc " in page.read_text() and page.read_text().endswith("after\n")
    assert Image.open(tmp_path / "plot.png").size[0] > 400


def _split(key: str) -> tuple[str, int]:
    name, steps = key.split("/")
    return name, int(steps)
