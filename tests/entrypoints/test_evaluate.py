"""evaluate.py from a checkpoint to the page, with a generator whose quality is known."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import evaluate
from runtime.cli import launch
from scenes.render import render
from tests.toy import CONF

DATA = {"_target_": "datamodules.scenes.ScenesDataModule", "preset": "scenes_simple", "image_size": 64}
SEARCH = f"hydra.searchpath=[file://{CONF}]"
QUICK = [SEARCH, "evaluator=scenes", "ckpt=fake", "splits=[iid,word]", "batch_size=4", "device=cpu"]


class Oracle(torch.nn.Module):
    """Draws every caption right at a guidance scale of 2 or more, and nothing below it; notes what it was asked for."""

    conditioning = "text"

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(7))
        self.asked: list[tuple[str, int]] = []
        self.refusal: str | None = None

    def sampling_refusal(self) -> str | None:
        return self.refusal

    def sampling_settings(self) -> dict[str, Any]:
        return {"stages.base.num_steps": 32, "stages.base.sampler": {"_target_": "diffusion.samplers.ddim"}}

    def sample(self, request, *, seeds, guidance_scale: float | dict[str, float] = 2.0, num_steps: int | None = None):
        assert len(seeds) == request.n and not self.training
        self.asked += list(zip(request.texts or [""] * request.n, seeds))
        if request.texts is None or guidance_scale < 2:
            return torch.full((request.n, 3, 64, 64), -0.8)
        images = [render(self.specs[c], seed % 1000, 64)[0] for c, seed in zip(request.texts, seeds)]
        return torch.stack([torch.from_numpy(i.copy()).permute(2, 0, 1) for i in images]) / 127.5 - 1


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    from datamodules.scenes import ScenesDataModule

    module = Oracle()
    data = ScenesDataModule(preset="scenes_simple", image_size=64)
    module.specs = {caption: spec for split in ("iid", "word") for caption, spec in data.prompts(split, 130)}
    config = OmegaConf.create({"data": DATA, "choices": {"model": "oracle", "data": "scenes_simple"}})
    info = {"path": "fake", "sha256": "a" * 64, "step": 10, "images_seen": 640, "train_sec": 60.0, "weights": "ema"}
    monkeypatch.setattr("evaluation.checkpoint_evaluation.load_module", lambda ckpt, **_: (module, config, info))
    monkeypatch.setattr("evaluation.command.locate", Path)
    return module


def test_a_perfect_generator_scores_like_real_images(oracle: Oracle, tmp_path, capsys) -> None:
    (result,) = evaluate.main([*QUICK, "n=6", f"out={tmp_path}", "sweep.guidance_scale=[1,2]"])
    for split in ("iid", "word"):
        exact = result["splits"][split]["metrics"]["all_correct"]
        assert exact["value"] == exact["real"] == 1 and exact["chance"] < 1
    assert [point["all_correct"] for point in result["sweeps"][0]["points"]] == [0, 1]
    assert "no Inception weights" in result["splits"]["iid"]["not_computed"]["fid"]
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    printed = capsys.readouterr()
    assert "100.0%" in printed.out and "fid: not computed" in printed.out
    assert "6/6 images" in printed.err and "min left" in printed.err


def test_a_cascade_is_swept_in_one_stage(oracle: Oracle, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales, draw = [], oracle.sample

    def sample(request, *, seeds, guidance_scale: float | dict[str, float] | None = None):
        scales.append(guidance_scale)
        return draw(request, seeds=seeds)

    monkeypatch.setattr(oracle, "sample", sample)
    monkeypatch.setattr(oracle, "stages", {"base": None}, raising=False)
    evaluate.main(
        [*QUICK, "n=4", f"out={tmp_path}", "guidance_scale={base: 3}", "sweep.guidance_scale=[1]", "sweep.stage=base"]
    )
    # per sampling one call for the images and one that counts its cost
    assert scales == [{"base": 3}] * 4 + [{"base": 1.0}] * 2


def test_cards_hold_the_whole_protocol(oracle: Oracle, tmp_path) -> None:
    evaluate.main([*QUICK, "n=4", f"out={tmp_path}", "num_steps=5"])
    card = json.loads((tmp_path / "cards" / "iid-all_correct.json").read_text())
    assert card["n_real"] == card["n_fake"] == 4 and card["split"] == "iid" and card["data"] == "scenes_simple"
    assert card["sampling"] == {
        "weights": "ema",
        "precision": "float32",
        "stages.base.num_steps": 32,
        "stages.base.sampler": "ddim",
        "num_steps": 5,
    }
    assert (
        card["model"]["parameters"] == 7 and card["model"]["images_seen"] == 640 and card["model"]["path"] == "fake"
    )
    assert card["data_fingerprint"] and card["versions"]["torch"] and "seed=0" in card["seeds"]
    assert json.loads((tmp_path / "cards" / "iid-fid.json").read_text())["value"] is None


def test_the_page_stands_alone(oracle: Oracle, tmp_path) -> None:
    evaluate.main([*QUICK, "n=4", f"out={tmp_path}"])
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:)|@import|url\(", page)
    assert page.count("data:image/png;base64,") >= 8  # four samples of each split
    for caption, _ in oracle.asked:
        assert caption.replace('"', "&quot;") in page or caption in page
    assert "no Inception weights" in page and "ckpt=fake" in page


def test_measuring_again_samples_nothing_and_more_images_only_add(oracle: Oracle, tmp_path) -> None:
    (first,) = evaluate.main([*QUICK, "n=4", f"out={tmp_path}"])
    assert len(oracle.asked) == 10  # four of each split, and one of each to count what it costs
    (again,) = evaluate.main([*QUICK, "n=4", f"out={tmp_path}", "batch_size=3"])
    assert len(oracle.asked) == 10 and again["splits"] == first["splits"]
    evaluate.main([*QUICK, "n=6", f"out={tmp_path}"])
    assert len(oracle.asked) == 14
    evaluate.main([*QUICK, "n=4", f"out={tmp_path}", "guidance_scale=3"])
    assert len(oracle.asked) == 24 and len(set(oracle.asked)) == 12  # the same seeds under other options


def test_a_model_without_text_is_not_judged_by_captions(oracle: Oracle, tmp_path) -> None:
    oracle.conditioning = "none"
    (result,) = evaluate.main([*QUICK, "splits=[iid]", "n=4", f"out={tmp_path}"])
    split = result["splits"]["iid"]
    assert split["metrics"] == {} and "needs specs" in split["not_computed"]["all_correct"]
    assert [caption for caption, _ in oracle.asked] == [""] * 5


@pytest.mark.slow
def test_distance_beside_its_floor(oracle: Oracle, tmp_path) -> None:
    options = ["ckpt=fake", "splits=[iid]", "n=128", "device=cpu", f"out={tmp_path}", SEARCH, "evaluator=distance"]
    found = []
    for guidance_scale in (1, 2):
        (result,) = evaluate.main([*options, f"guidance_scale={guidance_scale}"])
        found.append(result["splits"]["iid"]["metrics"]["fd_efficientnet_lite0"])
    assert found[1]["value"] == pytest.approx(found[1]["real"], rel=0.1) and found[0]["value"] > 1.3 * found[0]["real"]


def test_wandb_gets_every_result_with_its_page(oracle: Oracle, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list = []
    monkeypatch.setattr("evaluation.wandb_mirror.mirror", lambda result, page: sent.append((result.folder, result.name, page)))
    evaluate.main([*QUICK, "n=4", f"out={tmp_path}"])
    assert sent == []
    evaluate.main([*QUICK, "n=4", f"out={tmp_path}", "wandb=true"])
    assert sent == [(tmp_path, "fake", (tmp_path / "report.html").read_text())]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n=4"], "what to evaluate?"),
        (["ckpt=nowhere"], "no such file, run or name in zoo"),
        (["ckpt=nowhere", "n=0"], "n=0: give a whole number of at least 1"),
        (["ckpt=nowhere", "splits=iid"], "splits=iid: give a list"),
        (["ckpt=nowhere", "sweep.guidance_scale=2"], "sweep.guidance_scale=2: give a list"),
        (["ckpt=nowhere", "guidence_scale=2"], "Did you mean guidance_scale=2"),
        (["ckpt=nowhere", "sampler=dimm"], "Did you mean sampler=ddim"),
    ],
)
def test_mistakes_are_answered_in_one_line(overrides, message, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *overrides])
    with pytest.raises(SystemExit) as stop:
        launch(evaluate.main, "evaluate")
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and message in printed and printed.count("\n") == 1


def test_unknown_splits_and_untrained_models_are_refused(oracle: Oracle, tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown split 'nonsense'"):
        evaluate.main([*QUICK, "splits=[nonsense]", f"out={tmp_path}"])
    oracle.refusal = "stage 'base' is not trained"
    with pytest.raises(ValueError, match="ckpt=fake: stage 'base' is not trained"):
        evaluate.main([*QUICK, f"out={tmp_path}"])


def test_help_names_the_choices(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--help"])
    launch(evaluate.main, "evaluate")
    printed = capsys.readouterr().out
    assert "report.html" in printed and "dpmpp_2m" in printed and "default" in printed
