"""What a resumed run goes on from, and what it may not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime.resume import is_free, newest_checkpoint, usable
from tests.toy import overrides
from train import main


@pytest.mark.parametrize(
    "key",
    ["trainer.max_steps", "trainer.max_time", "trainer.devices", "callbacks.samples.every_steps", "callbacks.evaluate.n",
     "callbacks.checkpoint.keep", "callbacks.validate", "logger.wandb.project", "data.num_workers", "debug"],
)  # fmt: skip
def test_what_changes_no_weight_may_change(key: str) -> None:
    assert is_free(key)


@pytest.mark.parametrize(
    "key",
    ["trainer.precision", "trainer.accumulate", "trainer.deterministic", "callbacks.ema.decay", "callbacks.ema",
     "callbacks.nan_guard.max_in_a_row", "model.lr", "data.batch_size", "seed", "callbacks", "trainer",
     "trainer.max_steps_more", "data.num_workersx"],
)  # fmt: skip
def test_what_changes_the_result_may_not(key: str) -> None:
    assert not is_free(key)


def saved(folder: Path, step: int, counted: int | None = None, damaged: bool = False) -> Path:
    path = folder / "checkpoints" / f"step={step:08d}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"counters": {"optimizer_steps": step if counted is None else counted}}, path)
    if damaged:
        path.write_bytes(path.read_bytes()[:-50])
    return path


def test_the_newest_good_checkpoint_is_taken_and_damaged_ones_stay_under_another_name(tmp_path: Path, capsys) -> None:
    saved(tmp_path, 4), saved(tmp_path, 8)
    later = [saved(tmp_path, step, damaged=True) for step in (12, 16)]
    whole = [path.read_bytes() for path in later]
    found = newest_checkpoint(tmp_path, force=False)
    assert found["counters"]["optimizer_steps"] == 8 and Path(found["path"]).name == "step=00000008.ckpt"
    assert [path.with_name(f"{path.name}.damaged").read_bytes() for path in later] == whole
    assert not any(path.exists() for path in later)
    assert "step=00000016.ckpt is damaged" in capsys.readouterr().out


def test_where_all_are_damaged_nothing_is_started_over_or_moved(tmp_path: Path) -> None:
    files = [saved(tmp_path, step, damaged=True) for step in (4, 8)]
    with pytest.raises(ValueError, match="^all 2 checkpoints of .* are damaged .*nothing was changed: put a good one"):
        newest_checkpoint(tmp_path, force=False)
    assert all(path.exists() for path in files)
    assert newest_checkpoint(tmp_path, force=True) is None
    assert not any(path.exists() for path in files) and len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_run_without_checkpoints_starts_at_step_0(tmp_path: Path, capsys) -> None:
    assert newest_checkpoint(tmp_path, force=False) is None
    assert "no checkpoint yet: starting at step 0" in capsys.readouterr().out


def test_a_file_of_another_step_than_its_name_is_not_used(tmp_path: Path) -> None:
    assert usable(saved(tmp_path, 8))["counters"]["optimizer_steps"] == 8
    assert usable(saved(tmp_path, 9, counted=8)) is None
    assert usable(saved(tmp_path, 10, damaged=True)) is None and usable(tmp_path / "step=00000011.ckpt") is None


def test_other_settings_are_refused_unless_forced_and_then_listed(tmp_path: Path, capsys) -> None:
    main(overrides("trainer.max_steps=2", run=tmp_path))
    capsys.readouterr()
    with pytest.raises(ValueError, match="^callbacks.ema.decay=0.5: the run has callbacks.ema.decay=.*resume_force=true"):
        main([f"resume={tmp_path}", "trainer.max_steps=3", "callbacks.ema.decay=0.5"])
    assert "changed: callbacks.ema.decay" not in capsys.readouterr().out
    main([f"resume={tmp_path}", "trainer.max_steps=3", "callbacks.ema.decay=0.5", "resume_force=true"])
    said = capsys.readouterr().out
    assert "changed: callbacks.ema.decay=" in said and "-> 0.5 (another run from here on)" in said
    assert "changed: trainer.max_steps=2 -> 3" in said
