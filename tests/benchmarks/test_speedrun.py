"""Speed runs: what is measured of a training, which record wins, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from benchmarks import speedrun
from benchmarks.speedrun import SKILLS, Settings, exact, judged, main, make_row, minutes, page, share
from contracts import Request
from datamodules.base import to_model_range
from datamodules.scenes import ScenesDataModule
from scenes.render import render


def made(name: str, shares: list[float], cpu_sec: float, n: int = 200) -> dict[str, Any]:
    """A record whose seeds draw these shares of `dev` as told."""
    splits = [{split: {"skills": {"all_correct": x if split == "dev" else x / 2} | dict.fromkeys(SKILLS, 0.9), "n": n, "sec": 0.1} for split in speedrun.SPLITS}
              for x in shares]  # fmt: skip
    seeds = {str(i): {"cpu_sec": cpu_sec + 60 * i, "images": 1000, "steps": 10, "parameters": 2_000_000, "splits": x} for i, x in enumerate(splits)}
    return {"name": name, "settings": {"by": "us", "about": "", "overrides": "none"}, "machine": {"cpu": "x"}, "date": "today", "seeds": seeds}


def test_the_least_minutes_that_reach_a_mark_win_it() -> None:
    records = [made("quick", [0.5, 0.54], 600), made("slow", [0.81, 0.85], 6000), made("slower", [0.9], 9000), made("below", [0.4, 0.59], 60)]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page(records).splitlines() if line.startswith("|")]
    assert lines[2:5] == [["50%", "10", "quick"], ["80%", "100", "slow"], ["95%", "–", "nobody yet"]]
    assert [line[0].split("]")[0][1:] for line in lines[7:]] == ["slower", "slow", "quick", "below"]
    quick = lines[9]
    assert quick[1] == "10" and quick[3] == "2.0 M" and quick[4] == "52 ± 3 %" and quick[5] == "26 ± 1 %" and quick[8:13] == ["90"] * 5
    assert minutes(records[0]) == 10.5 and exact(records[0], "iid") == [0.25, 0.27]


def test_one_seed_has_its_interval_and_several_their_spread() -> None:
    assert share(made("a", [0.5], 1, n=100), "dev") == "50 % [40, 60]"
    assert share(made("a", [0.4, 0.5, 0.6], 1), "dev") == "50 ± 10 %"


class Renderer:
    """Draws the scene of every prompt that was given to it."""

    def __init__(self, data: ScenesDataModule) -> None:
        self.specs = {text: spec for split in speedrun.SPLITS for text, spec in data.prompts(split, 24)}

    def sample(self, request: Request, **_: Any) -> torch.Tensor:
        return torch.stack([to_model_range(render(self.specs[text], 1, 64)[0]) for text in request.texts])


def test_words_are_judged_apart_from_objects() -> None:
    data = ScenesDataModule("scenes_simple")
    model = Renderer(data)
    words = sum(spec.kind == "word" for _, spec in data.prompts("dev", 24))
    found = judged(model, data, "dev", 24)
    assert 0 < words and found["n"] == 24 - words and found["skills"]["all_correct"] == 1 and "spelling" not in found["skills"]
    assert judged(model, data, "word", 24)["n"] == 24


def test_a_record_is_trained_judged_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The command as typed, with two seeds of a net that hardly trains."""
    doc = tmp_path / "page.md"
    doc.write_text("# Page\n<!-- speedrun -->\n<!-- /speedrun -->\n")
    monkeypatch.setattr(speedrun, "PAGE", doc)
    monkeypatch.setattr(speedrun, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(speedrun, "REPO", tmp_path)
    tiny = [f"model.stages.{stage}.{setting}" for stage in ("base", "super_resolution") for setting in ("net.dim=32", "num_steps=2")]
    tiny += ["model.stages.super_resolution.net.tokens_dim=32", "model.stages.base.net.tokens_dim=32", "data.batch_size=2", "trainer.max_steps=2"]
    threads = torch.get_num_threads()

    def here(names: list[str], jobs: int, words: list[str], folder: Path, benchmark: str) -> None:
        assert benchmark == "speedrun" and jobs == 2
        for name in names:
            main(["--only-row", name, *words])
        torch.set_num_threads(threads)

    monkeypatch.setattr(speedrun, "make_rows", here)
    command = ["--name=tiny", "--seeds", "3", "4", "--n=4", "--jobs=2", f"--dir={tmp_path / 'runs'}", "--by=me", "--about=A try", "--", *tiny]
    main(command)
    record = json.loads((tmp_path / "records" / "tiny" / "record.json").read_text())
    assert list(record["seeds"]) == ["3", "4"] and record["settings"]["overrides"] == " ".join(tiny)
    first = record["seeds"]["3"]
    assert first["steps"] == 2 and first["images"] == 4 and first["cpu_sec"] > 0.5 and first["splits"]["dev"]["skills"]["all_correct"] == 0
    kept = tmp_path / "records" / "tiny" / "4"
    assert "seed: 4" in (kept / "config.yaml").read_text() and (kept / "metrics.jsonl").read_text()
    assert not any(str(tmp_path) in path.read_text() for path in kept.iterdir())
    assert "| [tiny]" in doc.read_text() and "**tiny**: A try." in doc.read_text() and "| me" in doc.read_text()
    before = (tmp_path / "runs" / "3" / "scores.json").stat().st_mtime_ns
    main(command)  # what is there is not trained again
    assert (tmp_path / "runs" / "3" / "scores.json").stat().st_mtime_ns == before
    capsys.readouterr()


def test_other_data_and_missing_names_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["--name=a/b"]):
        with pytest.raises(ValueError, match="give the record a name"):
            main(words)
    monkeypatch.setattr(train, "main", lambda words: pytest.fail("it trained before it looked at the data"))
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="draws captioned scenes, not PointsDataModule: give data=scenes_simple"):
        make_row(0, Settings(), tmp_path, ["data=ring"])
    torch.set_num_threads(threads)
    monkeypatch.setattr(speedrun, "RECORDS", tmp_path)
    monkeypatch.setattr(speedrun, "REPO", tmp_path.parent)
    with pytest.raises(ValueError, match="there is no record"):
        main(["--page"])
