"""The comparison of text-to-image models: what it reads of a training and an evaluation, its table and its curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import text_table
from benchmarks.text_table import GUIDANCE, MODELS, SKILLS, Settings, draw_curves, draw_pictures, make_row, real, row, shown, sized, table
from runtime.build import instantiate
from runtime.config import CONF, compose
from scenes import scoring


def made(folder: Path, shift: float = 0.0) -> Path:
    """The files that a training and an evaluation leave."""
    metrics = {"all_correct": {"value": 0.5 + shift, "low": 0.45, "high": 0.55, "real": 0.99, "unit": "%"}, "fd_clip_scenes": {"value": 0.25, "real": 0.01},
               "r_precision_scenes": {"value": 0.7, "low": 0.6, "high": 0.8, "real": 1.0}}  # fmt: skip
    points = [{"x": x, "all_correct": 0.3 + x / 10, "fd_clip_scenes": 0.1 * x} for x in (1, 2)] + [{"x": 3, "all_correct": 0.5}]
    (folder / "evaluation").mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"steps": 100, "images": 3200, "cpu_sec": 90.0, "parameters": 1234567}))
    result = {"splits": {"iid": {"metrics": metrics}, "combo": {"metrics": {}}}, "cost": {"nfe": 76, "sec_per_image": 0.5, "else": 1},
              "sweeps": [{"option": "guidance_scale", "points": points}]}  # fmt: skip
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(result))
    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (80, 80), "red").save(folder / "pictures" / "grid.png")
    return folder


def test_the_table_shows_every_number_with_its_interval_and_real_images(tmp_path: Path) -> None:
    rows = {"imagen": row(made(tmp_path / "imagen")), "glide": row(made(tmp_path / "glide", 0.1))}
    text = table(rows)
    assert "| imagen | 1,234,567" in text and "| 1.5 " in text and "| 76 " in text
    [exact] = [line for line in text.splitlines() if line.startswith("| all_correct")]
    assert [cell.strip() for cell in exact.split("|")[2:-1]] == ["50 % [45, 55]", "60 % [45, 55]", "99 %"]
    [distance] = [line for line in text.splitlines() if line.startswith("| fd_clip_scenes")]
    assert [cell.strip() for cell in distance.split("|")[2:-1]] == ["0.25", "0.25", "0.01"]
    assert "clip_score_scenes" not in text  # nobody has it
    assert shown("all_correct", None) == "–" and real(rows, "combo", "all_correct") is None


def test_curves_and_pictures_are_drawn(tmp_path: Path) -> None:
    rows = {name: row(made(tmp_path / name)) for name in ("imagen", "glide")}
    assert [point["x"] for point in rows["imagen"]["curve"]] == [1, 2, 3]
    draw_curves(rows, tmp_path / "curves.png")
    draw_pictures(["imagen", "glide"], tmp_path, tmp_path / "grids.png")
    assert Image.open(tmp_path / "curves.png").width > 300 and Image.open(tmp_path / "grids.png").size == (160, 104)


def test_a_row_is_made_once_and_of_one_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate
    import sample

    asked: list = []
    threads = torch.get_num_threads()
    monkeypatch.setattr(text_table, "train_ours", lambda name, s, out, overrides: asked.append((name, tuple(overrides))))
    monkeypatch.setattr(evaluate, "main", lambda words: (asked.append(words), made(tmp_path / f"new{len(asked)}")))
    monkeypatch.setattr(sample, "main", asked.append)
    settings = Settings(1.0, 8)
    make_row("imagen", settings, tmp_path, ["data=scenes"])
    torch.set_num_threads(threads)
    assert asked[0] == ("imagen", (*sized("imagen", False), "data=scenes")) and f"sweep.guidance_scale=[{','.join(map(str, GUIDANCE))}]" in asked[1]
    assert f"ckpt={tmp_path / 'imagen' / 'run'}" in asked[1] and "n=8" in asked[1] and "splits=[iid,combo]" in asked[1]
    assert f"prompts={text_table.PROMPTS}" in asked[2] and text_table.PROMPTS.exists()
    for other, overrides in ((settings, []), (replace(settings, small=True), ["data=scenes"])):
        with pytest.raises(ValueError, match="holds a row with other settings"):
            make_row("imagen", other, tmp_path, overrides)
    make_row("glide", replace(settings, small=True), tmp_path, ["data=scenes"])
    torch.set_num_threads(threads)
    assert asked[3] == ("glide", (*sized("glide", True), "data=scenes")) and len(asked[3][1]) == 9


@pytest.mark.parametrize("small", [False, True])
def test_a_row_in_a_process_of_its_own_is_given_every_setting(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent writes on the child's command line comes back as the same settings."""
    handed: list[Settings] = []
    monkeypatch.setattr(text_table, "make_row", lambda name, s, folder, overrides: handed.append(s))

    def in_this_process(names: list[str], jobs: int, words: list[str], folder: Path, benchmark: str) -> None:
        text_table.main([f"--only-row={names[0]}", *words])
        made(folder / names[0])

    monkeypatch.setattr(text_table, "make_rows", in_this_process)
    for name in ("CURVES", "PICTURES", "PAGE"):
        monkeypatch.setattr(text_table, name, tmp_path / name)
    monkeypatch.setattr(text_table, "draw_curves", lambda *a: None)
    monkeypatch.setattr(text_table, "draw_pictures", lambda *a: None)
    (tmp_path / "PAGE").write_text("<!-- text_table -->\n<!-- /text_table -->\n")
    words = ["--cpu-minutes=2.5", "--n=7", "--seed=3", "--models", "glide", f"--dir={tmp_path}", f"--out={tmp_path / 'out.json'}"]
    text_table.main([*words, *(["--small"] if small else [])])
    assert handed == [Settings(2.5, 7, 3, small)]
    assert f"small {small}" in (tmp_path / "PAGE").read_text()


@pytest.mark.parametrize("name", MODELS)
def test_the_small_sizes_are_smaller_nets(name: str) -> None:
    small, default = (compose("train", [f"model={name}", *sized(name, wish)]).model.stages for wish in (True, False))
    assert set(text_table.SMALL[name]) == {stage for stage in default if stage != "prior"}
    for stage in text_table.SMALL[name]:
        count = [sum(p.numel() for p in instantiate(stages[stage]).net.parameters()) for stages in (small, default)]
        assert count[0] < 0.6 * count[1]


@pytest.mark.parametrize("small", [False, True])
def test_the_models_share_their_sizes_and_their_training(small: bool) -> None:
    imagen, glide = (compose("train", [f"model={name}", *sized(name, small)]) for name in ("imagen", "glide"))
    for one, other in (("base", "base"), ("super_resolution", "upsampler")):
        a, b = imagen.model.stages[one], glide.model.stages[other]
        assert all(a.net[key] == b.net[key] for key in a.net.keys() & b.net.keys())
        assert {"dim", "dim_mults", "num_res_blocks", "mid_blocks", "tokens_dim"} <= a.net.keys() & b.net.keys()
        assert a.get("batch_share") == b.get("batch_share")
    assert imagen.data.batch_size == glide.data.batch_size
    assert all(imagen.model.optimizer[key] == value for key, value in glide.model.optimizer.items())


def test_its_names_are_those_of_models_and_skills() -> None:
    assert all((CONF / "model" / f"{name}.yaml").exists() for name in MODELS)
    assert set(SKILLS) <= set(scoring.SKILLS)
