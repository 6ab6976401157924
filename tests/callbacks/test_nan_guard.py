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


def test_without_the_guard_the_weights_are_lost(tmp_path) -> None:
    more = ("model.nan_at=[2]", "callbacks.nan_guard=null", "callbacks.samples=null", "trainer.max_steps=4")
    main(overrides(*more, run=tmp_path))
    ckpt = torch.load(tmp_path / "checkpoints/step=00000004.ckpt", weights_only=True)
    assert not all(torch.isfinite(v).all() for v in ckpt["state_dict"].values())
