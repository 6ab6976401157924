"""The command that measures few steps, with a model whose pictures are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import few_steps
from contracts import Request
from datamodules.base import to_model_range
from diffusion.samplers import dpmpp_2m
from scenes.render import render
from scenes.splits import split_of


class Renderer:
    """Draws a prompt's own scene where the first stage has 8 steps or more, a blank picture elsewhere; in few steps it is guided in an interval."""

    def __init__(self) -> None:
        self.stages = {"base": SimpleNamespace(num_steps=9), "up": SimpleNamespace(num_steps=5)}
        self.train_stages = ["base"]
        self.specs = {text: spec for spec, text in few_steps.prompts(40)}
        self.calls: list[dict[str, Any]] = []

    def sample(self, request: Request, *, seeds: list[int], **options: Any) -> torch.Tensor:
        self.calls.append(options | {"n": request.n, "seeds": seeds})
        steps = options.get("num_steps", {}).get("base", 9)
        drawn = [to_model_range(render(self.specs[text], seed, 64)[0]) for text, seed in zip(request.texts, seeds)]
        return torch.stack(drawn) if steps >= 8 else torch.zeros(request.n, 3, 64, 64) - 0.9


def test_prompts_are_new_scenes_of_objects() -> None:
    pairs = few_steps.prompts(40)
    assert len(pairs) == 40 and {split_of(spec) for spec, _ in pairs} == {"iid"} and "word" not in {spec.kind for spec, _ in pairs}
    assert pairs[:5] == few_steps.prompts(5)


def test_rows_say_how_much_is_drawn_as_told_by_every_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, student = Renderer(), Renderer()
    student.stages["base"].num_steps = 2
    monkeypatch.setattr(few_steps, "load_module", lambda name: ({"teacher": model, "student": student}[name], None, {"images_seen": 7}))
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- few_steps -->\n<!-- /few_steps -->\n")
    monkeypatch.setattr(few_steps, "PAGE", page)
    monkeypatch.setattr(few_steps, "PICTURE", tmp_path / "few_steps.png")
    few_steps.main(["--ckpt", "teacher", "--students", "student", "--steps", "4", "8", "--n", "20", "--publish", "--out", str(tmp_path / "x.json")])
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(row["way"], list(row["steps"].values()), row["all_correct"]) for row in rows] == [
        ("as configured", [9, 5], 1), ("guided", [4, 3], 0), ("guided in the interval", [4, 3], 0), ("second order, w = 1.5", [4, 3], 0),
        ("guided", [8, 3], 1), ("guided in the interval", [8, 3], 1), ("second order, w = 1.5", [8, 3], 1), ("distilled", [2, 3], 1),
    ]  # fmt: skip
    assert [call["guidance_interval"] for call in model.calls if "guidance_interval" in call][0] == [-4.25, 0.25]
    second = [call for call in model.calls if "sampler" in call]
    assert {(call["sampler"].func, call["sampler"].keywords["eta"], call["guidance_scale"]) for call in second} == {(dpmpp_2m, 1.0, 1.5)}
    assert student.calls[-1]["num_steps"] == {"up": 3} and student.calls[-1].keys() == {"n", "seeds", "num_steps"} and [call["n"] for call in student.calls] == [16, 16, 4]
    assert "| guided                 | 8 + 3 | 100 % [84, 100]" in page.read_text().replace("100%", "100 %") and (tmp_path / "few_steps.png").exists()
    capsys.readouterr()
