"""The command: where results go, what checkpoints are called, and which settings contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.command import check, default_out, lasting, names
from runtime.config import compose


def test_results_go_beside_the_run_or_into_evaluations(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    for given, place in (
        ([f"ckpt={tmp_path / 'run'}"], tmp_path / "run" / "evaluation"),
        (["ckpt=imagen-scenes"], Path("evaluations/imagen-scenes")),
        (["ckpt=imagen-scenes", "name=mine"], Path("evaluations/mine")),
        (["ckpt=[a,b]"], Path("evaluations")),
        (["compare=[a,b]"], Path("evaluations")),
        ([f"images={tmp_path / 'images'}"], Path("evaluations/images")),
        (["ckpt=imagen-scenes", f"out={tmp_path}"], tmp_path),
    ):
        assert default_out(compose("evaluate", given)) == place


def test_checkpoints_have_different_names(tmp_path: Path) -> None:
    for folder in ("a/run/checkpoints", "b/run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "a" / "run" / "checkpoints" / "step=1.ckpt"
    file.touch()
    runs = [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), str(file)]
    assert names(runs, None) == ["run", "run-2", "run-step=1"]
    assert names(runs[:1], "mine") == ["mine"]
    with pytest.raises(ValueError, match="name=mine for 3 checkpoints"):
        names(runs, "mine")


def test_a_command_is_repeated_with_the_run_that_was_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "vae" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("vae/a")
    assert lasting("ckpt=runs/latest") == "ckpt=runs/vae/a"
    assert lasting("ckpt=[runs/latest,imagen-scenes]") == "ckpt=[runs/vae/a,imagen-scenes]"
    assert lasting("name=latest") == "name=latest" and lasting("sweep.num_steps=[4,8]") == "sweep.num_steps=[4,8]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "what to evaluate"),
        (["ckpt=imagen-scenes", "compare=[a,b]"], "give one of ckpt=, compare="),
        (["images=a", "reference=b", "+options.truncation=0.5"], "options= goes with ckpt="),
        (["images=a", "reference=b", "+sweep.truncation=[0.5]"], "sweep= goes with ckpt="),
        (["ckpt=imagen-scenes", "reference=b"], "reference= goes with images="),
        (["ckpt=imagen-scenes", "+sweep.truncation=0.5"], "sweep.truncation=0.5: give a list of values"),
        (["ckpt=imagen-scenes", "+sweep.truncation=[]"], r"sweep.truncation=\[\]: give a list of values"),
        (["ckpt=imagen-scenes", "num_steps=3", "+options.num_steps=4"], "num_steps= and options.num_steps= mean the same"),
        (["ckpt=nowhere-at-all"], "nowhere-at-all"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(given: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check(compose("evaluate", given))
