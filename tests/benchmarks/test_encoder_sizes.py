"""Encoder sizes against U-Net sizes: what the rows train, what pictures are judged by, and what stays from a call before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import encoder_sizes
from benchmarks.encoder_sizes import ENCODERS, NETS, ROWS, SPLITS, Settings, differences, encoder_size, gain, judged, make_row, table, words_of
from contracts import Request
from datamodules.base import to_model_range
from datamodules.scenes import scene_spec
from runtime.build import instantiate
from runtime.config import compose
from scenes.captions import caption
from scenes.render import render


def test_rows_differ_in_the_encoder_and_the_size_of_the_net_alone(tmp_path: Path) -> None:
    assert len(ROWS) == 7 and {row.split("/")[1] for row in ROWS if row.startswith("minilm_1/")} == {"middle"}
    found = {row: compose("train", words_of(row, Settings(steps=12, seed=3), tmp_path)) for row in ROWS}
    assert [found[f"{name}/middle"].text_encoder.encoder.layer for name in ENCODERS] == [-6, -1, -1]
    assert found["mpnet/small"].text_encoder.encoder.model_id == str(tmp_path) and found["mpnet/large"].text_encoder.dim == 768
    assert found["minilm/small"].model.stages.base.net == found["mpnet/small"].model.stages.base.net
    for cfg in found.values():
        assert cfg.model.train_stages == ["base"] and cfg.trainer.max_steps == cfg.model.lr_schedule.total_steps == 12 and cfg.seed == 3
        assert cfg.data == found["minilm/middle"].data and cfg.model.optimizer == found["minilm/middle"].model.optimizer
    sizes = [sum(p.numel() for p in instantiate(found[f"minilm/{net}"].model).stages["base"].parameters()) for net in NETS]
    assert 2 * sizes[0] < sizes[1] and 1.5 * sizes[1] < sizes[2]


class Drawer:
    """Draws each caption's scene; the wrong one where the caption has a word of `wrong`."""

    base = "base"

    def __init__(self, split: str, n: int, wrong: str = "nothing") -> None:
        self.specs = [scene_spec("scenes_simple", split, "encoder sizes", 0, i) for i in range(n)]
        self.wrong, self.other, self.asked = wrong, scene_spec("scenes_simple", split, "another", 0, 0), []

    def sample(self, request: Request, *, seeds: list[int], stages: list[str]) -> torch.Tensor:
        assert stages == ["base"] and len(seeds) == request.n
        assert request.texts == [caption(self.specs[seed], seed, preset="scenes_simple") for seed in seeds]
        self.asked += seeds
        shown = [(self.other, 1) if self.wrong in text else (self.specs[seed], seed) for text, seed in zip(request.texts, seeds)]
        return F.avg_pool2d(torch.stack([to_model_range(render(spec, seed, 64)[0]) for spec, seed in shown]), 2)


def test_pictures_of_32_pixels_are_read_and_compared_with_such_pictures() -> None:
    right = judged(drawer := Drawer("iid", 40), "iid", 40)
    assert right["skills"]["all_correct"] >= 0.95 and right["fd"] < 1e-4 < right["fd_real"] and 30 < len(right["exact"]) <= 40
    assert drawer.asked == list(range(40)), "every scene has a seed of its own"
    wrong = judged(Drawer("iid", 40, wrong="red"), "iid", 40)
    assert wrong["exact"].count("1") < right["exact"].count("1") and wrong["fd"] > 1e-3
    everything = judged(Drawer("iid", 40, wrong=""), "iid", 40)
    assert everything["skills"]["all_correct"] < 0.2


def test_of_a_cut_encoder_only_what_is_used_counts() -> None:
    encoder = nn.Module()
    encoder.embeddings, encoder.encoder = nn.Embedding(5, 2), nn.Module()
    encoder.encoder.layer = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    cached = SimpleNamespace(encoder=SimpleNamespace(loaded=(None, encoder)))
    assert encoder_size("minilm", cached) == 10 + 18 and encoder_size("minilm_1", cached) == 10 + 6


def test_a_row_is_made_once_and_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    asked, threads = [], torch.get_num_threads()
    net = nn.Linear(2, 2)
    module = SimpleNamespace(stages={"base": net}, base="base", text_encoder=None)
    module.eval = lambda: module
    monkeypatch.setattr(train, "main", asked.append)
    monkeypatch.setattr(encoder_sizes, "load_module", lambda run, trust: (module, None, {"images_seen": 384}))
    monkeypatch.setattr(encoder_sizes, "encoder_size", lambda name, encoder: 1000)
    monkeypatch.setattr(encoder_sizes, "judged", lambda module, split, n: {"skills": {"all_correct": 0.5}, "exact": "01", "fd": 1.0})
    try:
        for _ in range(2):
            make_row("mpnet/small", Settings(steps=12, n=8), tmp_path, Path("/weights"))
        assert len(asked) == 1 and f"run_dir={tmp_path}/mpnet/small/run" in asked[0] and "text_encoder.encoder.model_id=/weights" in asked[0]
        row = json.loads((tmp_path / "mpnet/small/row.json").read_text())
        assert row["parameters"] == 6 and row["images"] == 384 and set(row["splits"]) == set(SPLITS) and row["cpu_sec"] >= 0
        with pytest.raises(ValueError, match="other settings"):
            make_row("mpnet/small", Settings(steps=13, n=8), tmp_path, None)
        (tmp_path / "mpnet/small/row.json").unlink()
        make_row("mpnet/small", Settings(steps=12, n=8), tmp_path, Path("/weights"))
        assert len(asked) == 1, "a training that is done is not repeated for the sake of its pictures"
    finally:
        torch.set_num_threads(threads)


def test_the_tables_have_every_number_in_its_place() -> None:
    def facts(exact: str, **sizes: int) -> dict:
        found = {"skills": {"all_correct": 0.5, "count": 0.75, "shape": 0.8, "binding": 0.7, "relation": 0.9}, "exact": exact, "fd": 0.1234, "fd_real": 0.05}
        return {**sizes, "cpu_sec": 600, "splits": {split: found for split in SPLITS}}

    rows = {
        "minilm/small": facts("01" * 50, encoder_parameters=22_700_000, parameters=800_000),
        "mpnet/small": facts("11" * 50, encoder_parameters=109_500_000, parameters=800_000),
        "mpnet/middle": facts("10" * 50, encoder_parameters=109_500_000, parameters=2_000_000),
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(rows).splitlines()[2:]]
    assert lines[0] == ["MiniLM, 6 layers", "22.7 M", "small", "0.8 M", "10", *["50 [40, 60]", "75", "80", "70", "90", "0.123"] * 2]
    assert lines[-1] == ["real images", *[""] * 4, *[*[""] * 5, "0.050"] * 2]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in differences(rows).splitlines()[2:]]
    assert lines == [["minilm/small", "mpnet/small", "encoder, 4.8 times", *["+50 [+40, +60]"] * 2], ["mpnet/small", "mpnet/middle", "U-Net, 2.5 times", *["-50 [-60, -40]"] * 2]]
    assert gain("0110", "0110") == "+0 [+0, +0]"
