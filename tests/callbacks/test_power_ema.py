"""Averages of several lengths: the rule, snapshots, resuming, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from callbacks.power_ema import PowerEMA, step_of
from optimizers.power_ema import beta, gamma_of
from tests.sessions import assert_same
from tests.toy import overrides
from train import main

KEEP = ("callbacks=power_ema", "callbacks.power_ema.every_steps=4", "model.lr_schedule=null", "callbacks.samples=null")


def stored(run: Path) -> dict[int, dict]:
    return {step_of(p): torch.load(p, weights_only=True) for p in sorted((run / "power_ema").glob("*.pt"))}


def test_a_stopped_run_stores_what_a_whole_one_does(tmp_path: Path) -> None:
    main(overrides(*KEEP, "trainer.max_steps=12", run=tmp_path / "whole"))
    main(overrides(*KEEP, "trainer.max_steps=8", run=tmp_path / "parts"))
    # A kill between a snapshot and its checkpoint leaves a snapshot of a step that is done again.
    (tmp_path / "parts/checkpoints/step=00000008.ckpt").unlink()
    damaged = tmp_path / "parts/power_ema/step=00000008.pt"
    damaged.write_bytes(b"half a file")
    main([f"resume={tmp_path / 'parts'}", "trainer.max_steps=12"])
    whole, parts = stored(tmp_path / "whole"), stored(tmp_path / "parts")
    assert list(whole) == list(parts) == [4, 8, 12]
    assert_same(whole, parts)
    for step in whole:
        name = f"power_ema/step={step:08d}.pt"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    a, b = (torch.load(tmp_path / r / "checkpoints/step=00000012.ckpt")["power_ema"] for r in ("whole", "parts"))
    assert_same(a, b)
    assert a["num_updates"] == 12 and not list((tmp_path / "parts/power_ema").glob("*.tmp*"))


def test_the_average_is_the_papers(tmp_path: Path) -> None:
    main(overrides(*KEEP, "trainer.max_steps=6", "callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep=9", run=tmp_path))
    saved = [torch.load(tmp_path / f"checkpoints/step={s:08d}.ckpt") for s in range(1, 7)]
    for k, sigma_rel in enumerate((0.05, 0.10)):
        expected = 0.0
        for step, one in enumerate(saved, 1):
            b = beta(step, gamma_of(sigma_rel))
            expected = b * expected + (1 - b) * one["state_dict"]["net.1.weight"].double()
            torch.testing.assert_close(one["power_ema"]["averages"][k]["net.1.weight"].double(), expected, rtol=1e-5, atol=1e-7)
    assert all(v.dtype == torch.float16 for v in stored(tmp_path)[6]["averages"][0].values())


def test_it_is_off_by_default_and_cannot_begin_later(tmp_path: Path) -> None:
    main(overrides("trainer.max_steps=4", run=tmp_path))
    checkpoint = torch.load(tmp_path / "checkpoints/step=00000004.ckpt")
    assert "power_ema" not in checkpoint and not (tmp_path / "power_ema").exists()
    with pytest.raises(ValueError, match="every step from the first"):
        PowerEMA(str(tmp_path)).on_load_checkpoint(None, None, checkpoint)
    other = {"power_ema": {"sigma_rel": [0.05, 0.2]}}
    with pytest.raises(ValueError, match=r"the run tracks \[0.05, 0.2\]"):
        PowerEMA(str(tmp_path)).on_load_checkpoint(None, None, other)


@pytest.mark.parametrize("wrong", [{"every_steps": 0}, {"dtype": "int8"}, {"sigma_rel": [0.1]}, {"sigma_rel": [0.1, 0.5]}])
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match="sigma_rel|every_steps|dtype"):
        PowerEMA("x", **wrong)


def test_a_full_disk_takes_no_snapshot_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    callback = PowerEMA(str(tmp_path / "file"))  # a folder cannot be made there
    callback.store()
    assert "no step=00000000.pt of the averages" in capsys.readouterr().out
