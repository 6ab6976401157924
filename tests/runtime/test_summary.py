"""The last lines of a run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.summary import LINE, commands, figures, summary
from tests.toy import overrides
from train import main


def module(**more: object) -> SimpleNamespace:
    return SimpleNamespace(optimizer_steps=1800, images_seen=57_600, **{"sampling_refusal": lambda: None, **more})


def test_figures_of_a_split_share_a_row_and_clocks_are_left_out() -> None:
    metrics = {"train/loss": 0.0123456, "train/lr": 1e-3, "train/grad_norm/base": 2.0, "val/loss": 0.5, "val/loss_base": 0.25,
               "eval/iid/all_correct": 0.36, "eval/combo/all_correct": 0.16, "eval/iid/count": 0.7, "time/images_per_sec": 30.0, "step": 7}  # fmt: skip
    assert figures(metrics) == [("train", "loss 0.01235"), ("val", "loss 0.5  loss_base 0.25"), ("eval/iid", "all_correct 0.36  count 0.7"), ("eval/combo", "all_correct 0.16")]


def test_many_figures_are_wrapped_and_none_is_lost() -> None:
    rows = figures({f"eval/iid/a_long_name_of_a_metric_{i}": float(i) for i in range(12)})
    assert [name for name, _ in rows] == ["eval/iid", *[""] * (len(rows) - 1)] and len(rows) > 2
    assert max(len(text) for _, text in rows) <= LINE + 2
    assert sum(text.count("a_long_name") for _, text in rows) == 12


@pytest.mark.parametrize(("wait", "said"), [(0.1, False), (0.35, True)])
def test_a_long_wait_for_data_is_worth_a_row(wait: float, said: bool, tmp_path: Path) -> None:
    rows = summary(tmp_path, module(), {"time/data_wait": wait}, 1).splitlines()
    assert any(row.startswith("data ") and "35%" in row for row in rows) == said


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (module(sampling_refusal=lambda: "a classifier draws nothing"), ["a classifier draws nothing"]),
        (module(conditioning="label"), ["python sample.py ckpt={} n=16", "python evaluate.py ckpt={}"]),
        (module(), ["python sample.py ckpt={} n=16", "python evaluate.py ckpt={}"]),
        (module(conditioning="text"), ["""python sample.py ckpt={} prompt="the word 'CAT'" n=4""", "python evaluate.py ckpt={}"]),
    ],
)
def test_what_can_be_typed_next_suits_the_model(model: SimpleNamespace, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "my run"
    assert commands(path, model, ['the word "CAT"']) == [line.format(shlex.quote(str(path))) for line in expected]


def test_the_newest_pictures_and_checkpoint_are_named(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for i, name in enumerate(["samples/step=2.png", "samples/step=10.png", "samples.gif", "checkpoints/step=10.ckpt"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (i, i))
    lines = summary(tmp_path, module(), {"val/loss": 0.5}, 3725).splitlines()
    assert lines == [
        "finished    step 1,800  images 57,600  1:02:05 of training",
        "val         loss 0.5",
        f"pictures    {tmp_path}/samples/step=10.png",
        f"film        {tmp_path}/samples.gif",
        f"checkpoint  {tmp_path}/checkpoints/step=10.ckpt",
        f"next        python sample.py ckpt={tmp_path} n=16",
        f"            python evaluate.py ckpt={tmp_path}",
    ]


def test_a_run_ends_with_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(overrides("trainer.max_steps=3", run=tmp_path / "run"))
    last = capsys.readouterr().out.splitlines()[-8:]
    assert any(line.startswith("finished    step 3") and line.endswith("of training") for line in last)
    assert any(line.startswith("checkpoint") and line.endswith(".ckpt") for line in last) and f"ckpt={tmp_path / 'run'}" in last[-1]
