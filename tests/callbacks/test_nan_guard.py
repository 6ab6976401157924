"""Bad gradients change nothing, are counted, and end a run that has nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.toy import overrides
from train import main


def test_bad_steps_are_skipped_and_counted(tmp_path, capsys) -> None:
    metrics = main(overrides("model.nan_at=[2,5]", "trainer.max_steps=9", run=tmp_path))
    ckpt = torch.load(tmp_path / "checkpoints/step=00000009.ckpt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in ckpt["state_dict"].values())
    assert all(torch.isfinite(v).all() for v in ckpt["ema"]["params"].values())
    assert ckpt["optimizer_states"][0]["state"][0]["step"] == 7  # of 9
    assert metrics["train/skipped_steps"] == 2
    assert "step 3: gradient not finite, step skipped (1 so far)" in capsys.readouterr().out


def test_many_in_a_row_end_the_run(tmp_path) -> None:
    with pytest.raises(FloatingPointError, match="not finite 3 steps in a row, up to step 7"):
        main(overrides("model.nan_at=[4,5,6,7]", "callbacks.nan_guard.max_in_a_row=2", run=tmp_path))
    assert (tmp_path / "checkpoints/step=00000004.ckpt").exists()


def test_a_good_step_between_starts_the_count_again(tmp_path) -> None:
    more = ("model.nan_at=[1,2,4,5,7,8]", "callbacks.nan_guard.max_in_a_row=2", "trainer.max_steps=10")
    assert main(overrides(*more, run=tmp_path))["train/skipped_steps"] == 6


def test_the_count_survives_a_resume(tmp_path) -> None:
    main(overrides("model.nan_at=[2,3]", "callbacks.nan_guard.max_in_a_row=2", "trainer.max_steps=4", run=tmp_path))
    with pytest.raises(FloatingPointError, match="not finite 3 steps in a row, up to step 5"):
        main([f"resume={tmp_path}", "trainer.max_steps=6", "model.nan_at=[4]", "resume_force=true"])


def test_nothing_is_saved_while_gradients_are_not_finite(tmp_path) -> None:
    more = ("model.nan_at=[3,4]", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep=9")
    main(overrides(*more, "trainer.max_steps=8", run=tmp_path))
    steps = [int(p.stem.removeprefix("step=")) for p in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == [2, 6, 8]  # what was due at step 4 waited for a good step


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("model.nan_at=[5]", "callbacks.nan_guard=null"), "no checkpoint at step 8: state_dict.net.1.weight is not "
         "finite; .*the last good checkpoint is step=00000004.ckpt, go back to it with python train.py resume="),
        (("model.optimizer.lr=inf",), "not finite 11 steps in a row.*; there is no good checkpoint, start a new run"),
        (("model.optimizer.lr=1e30",), "not finite 11 steps in a row.*; there is no good checkpoint, start a new run"),
    ],
)  # fmt: skip
def test_weights_that_are_lost_are_never_saved_as_good(tmp_path, more: tuple, line: str) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=line) as error:
        main(overrides("callbacks.samples=null", *more, run=tmp_path))
    assert "\n" not in str(error.value)
    left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert left == (["step=00000004.ckpt"] if "nan_at" in more[0] else [])
    if left:  # without the fault the run goes on from the good one
        assert main([f"resume={tmp_path}", "model.nan_at=[]", "resume_force=true"])["step"] == 20
