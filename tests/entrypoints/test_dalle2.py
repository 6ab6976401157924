"""DALL-E 2 through the real scripts: the paper's baselines, stages apart, an evaluation, resuming, two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sample
import train
from benchmarks import unclip_tasks
from evaluate import main as evaluate
from tests.sessions import assert_same, contents, run
from tests.test_configs import TINY, trained_clip

NET = {"fold": 8, "dim": 32, "dim_mults": "[1]", "num_res_blocks": 1, "attn_resolutions": "[]", "mid_blocks": 1, "emb_dim": 16}
SMALL = (
    "data.batch_size=8", "data.num_val=8", "callbacks.evaluate=null", "callbacks.samples=null", "trainer.precision=32-true", "prior.net.dim=16",
    "prior.net.layers=1", "prior.net.heads=2", "prior.num_steps=2", "model.stages.decoder.num_steps=2", "model.stages.upsampler.num_steps=2",
    "model.stages.decoder.net.tokens_dim=32", "model.stages.decoder.conditioners.text.num_layers=0",
    *(f"model.stages.{stage}.net.{key}={value}" for stage in ("decoder", "upsampler") for key, value in NET.items()),
    "model.stages.decoder.net.attn_resolutions=[4]", "model.stages.upsampler.batch_share=0.5", "model.lr_schedule=null",
)  # fmt: skip


def overrides(folder: Path, clip: Path, *more: str) -> list[str]:
    return ["model=dalle2", "trainer=cpu", *SMALL, "logger.wandb=null", "callbacks.progress=null", f"clip.ckpt={clip}", f"run_dir={folder}", *more]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def runs(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name for name in ("all", "without_prior")}
    train.main(overrides(found["all"], clip, "trainer.max_steps=12"))
    train.main(overrides(found["without_prior"], clip, "trainer.max_steps=2", "model.train_stages=[decoder,upsampler]"))
    return found


def drawn(folder: Path, clip: Path, out: Path, *more: str) -> bytes:
    sample.main([f"ckpt={folder}", f"trust={clip}", "prompt=a red circle", "device=cpu", f"out={out}", *more])
    return (out / "00000.png").read_bytes()


def test_the_baselines_of_the_paper_are_drawn_as_typed(runs: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    images = {kind: drawn(runs["all"], clip, tmp_path / kind, f"options.prior={kind}") for kind in ("none", "text", "diffusion")}
    assert len(set(images.values())) == 3
    assert drawn(runs["all"], clip, tmp_path / "default") == images["diffusion"]
    line = json.loads((tmp_path / "text" / "samples.jsonl").read_text())
    assert line["prior"] == "text"
    with pytest.raises(ValueError, match="options.prior=gauss: give none, text, diffusion or autoregressive"):
        drawn(runs["all"], clip, tmp_path / "x", "options.prior=gauss")


def test_a_decoder_without_a_trained_prior_draws_what_it_can(runs: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 'prior' is not trained"):
        drawn(runs["without_prior"], clip, tmp_path / "x")
    with pytest.raises(ValueError, match="'prior' is not trained.* or draw with prior=text"):
        drawn(runs["without_prior"], clip, tmp_path / "x", "num_steps=2")
    assert not (tmp_path / "x").exists()
    drawn(runs["without_prior"], clip, tmp_path / "text", "options.prior=text")
    drawn(runs["without_prior"], clip, tmp_path / "small", "options.prior=none", "options.stages=[decoder]")


def test_an_evaluation_sweeps_over_the_priors(runs: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    evaluate([f"ckpt={runs['all']}", f"trust={clip}", f"out={tmp_path}", "n=2", "splits=[iid]", "device=cpu", "+sweep.prior=[none,text,diffusion]"])
    found = json.loads((tmp_path / "metrics.json").read_text())
    [sweep] = found["sweeps"]
    assert sweep["option"] == "prior" and [point["x"] for point in sweep["points"]] == ["none", "text", "diffusion"]
    assert "all_correct" in found["splits"]["iid"]["metrics"]


def test_its_tasks_are_measured_on_scenes(runs: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    unclip_tasks.main([f"--ckpt={runs['all']}", "--n=4", "--images=2", "--steps=2", f"--out={tmp_path / 'found.json'}", f"--trust={clip}"])
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert set(found["edits"]) == {"colour", "shape", "count", "size"} and found["way back"]["given as told"]["value"] == 1
    assert found["similarities"]["image"]["own image"] == pytest.approx(1)


def test_a_resumed_run_is_a_run_that_never_stopped(clip: Path, tmp_path: Path) -> None:
    train.main(overrides(tmp_path / "whole", clip, "trainer.max_steps=4"))
    train.main(overrides(tmp_path / "parts", clip, "trainer.max_steps=2"))
    train.main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=4"])
    whole, parts = (contents(tmp_path / name) for name in ("whole", "parts"))
    for side in (whole, parts):
        side.pop("metrics"), side.pop("callbacks"), side.pop("pictures", None)  # the stop at step 2 measured once more
    assert_same(whole, parts)


def test_two_processes_equal_one(clip: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name, more in (("one", ()), ("two", ("trainer.devices=2", "trainer.strategy=ddp_fork"))):
        assert run(overrides(tmp_path / name, clip, "trainer.max_steps=2", *more), log) == 0, log.read_text()
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-5, msg=name)
