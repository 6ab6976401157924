"""What a resumed run takes over, refuses and lists, and which checkpoint it goes on from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from runtime import run_dir
from runtime.config import CONF, compose, parse
from runtime.resume import FREE, change, configure, flat, is_free
from tests.toy import overrides
from train import main


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """A run of four steps with checkpoints at 2 and 4."""
    path = tmp_path_factory.mktemp("four") / "run"
    main(overrides("trainer.max_steps=4", "callbacks.checkpoint.every_steps=2", run=path))
    return path


@pytest.fixture
def copy(four: Path, tmp_path: Path) -> Path:
    return shutil.copytree(four, tmp_path / "run")


def resume(path: Path, *more: str):
    try:
        return configure([f"resume={path}", *more])
    finally:
        run_dir.unlock(path.resolve())


def changed(path: Path, *overrides: str, force: bool = False) -> None:
    """What `resume=` does with the overrides, without the rest of it."""
    cfg = OmegaConf.load(path / "resume.yaml")
    OmegaConf.set_struct(cfg, True)
    for override in parse(overrides):
        change(cfg, override, force)


def checkpoint(path: Path, step: int) -> Path:
    return path / "checkpoints" / f"step={step:08d}.ckpt"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def listing(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != "lock"}


# ---- which checkpoint ----


def test_a_damaged_newest_one_is_moved_aside(copy: Path, capsys) -> None:
    damage(checkpoint(copy, 4))
    _, found = resume(copy)
    assert found["counters"]["optimizer_steps"] == 2
    left = sorted(p.name for p in (copy / "checkpoints").iterdir())
    assert left == ["step=00000002.ckpt", "step=00000004.ckpt.damaged"]
    assert "step=00000004.ckpt is damaged, now step=00000004.ckpt.damaged; using the checkpoint before it" in capsys.readouterr().out


def test_a_name_that_is_not_its_step_is_damage(copy: Path) -> None:
    shutil.copy(checkpoint(copy, 2), checkpoint(copy, 99999999))
    (copy / "checkpoints" / "step=00000009.ckpt").mkdir()
    _, found = resume(copy)
    assert found["path"] == str(checkpoint(copy, 4)) and not checkpoint(copy, 99999999).exists()


def test_where_all_are_damaged_nothing_is_changed(copy: Path, capsys) -> None:
    for step in (2, 4):
        damage(checkpoint(copy, step))
    before = listing(copy)
    with pytest.raises(ValueError, match=r"all 2 checkpoints of .* are damaged \(step=00000004.ckpt, step=00000002.ckpt\), "
                                         "nothing was changed: put a good one back, or add resume_force=true"):  # fmt: skip
        resume(copy)
    assert listing(copy) == before
    _, found = resume(copy, "resume_force=true")
    assert found is None and "starting at step 0" in capsys.readouterr().out
    assert all(name.endswith(".damaged") for name in os.listdir(copy / "checkpoints"))


def test_a_file_that_cannot_be_read_is_not_called_damaged(copy: Path, monkeypatch) -> None:
    def denied(path, *_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("runtime.resume.open", denied, raising=False)
    with pytest.raises(ValueError, match="step=00000004.ckpt cannot be read: Permission denied; nothing was changed"):
        resume(copy)
    assert checkpoint(copy, 4).exists()


def test_a_run_without_checkpoints_starts_over(copy: Path, capsys) -> None:
    for step in (2, 4):
        checkpoint(copy, step).unlink()
    assert resume(copy)[1] is None and "has no checkpoint yet: starting at step 0" in capsys.readouterr().out


def test_temporary_files_of_a_living_run_stay(copy: Path, monkeypatch) -> None:
    stale = copy / "checkpoints" / "step=00000006.ckpt.tmp-1-2"
    stale.touch()
    run_dir.lock(copy)
    held = run_dir._locks.pop(copy)  # as if another process had it
    try:
        with pytest.raises(ValueError, match="is in use by process"):
            resume(copy)
        assert stale.exists()
    finally:
        os.close(held)
    resume(copy)
    assert not stale.exists()


def test_an_error_gives_the_lock_back(copy: Path) -> None:
    with pytest.raises(ValueError):
        configure([f"resume={copy}", "seed=3"])
    assert not run_dir._locks


# ---- what may change ----


@pytest.mark.parametrize(
    "setting",
    ["callbacks.ema.decay=0.5", "trainer.precision=bf16-mixed", "trainer.deterministic=true", "trainer.accumulate=2",
     "callbacks.nan_guard.max_in_a_row=3", "callbacks.nan_guard=null", "callbacks.ema=null", "model.dropout=0.2", "seed=1",
     "init=other", "data.n=31"],
)  # fmt: skip
def test_what_changes_the_result_is_refused_or_listed(setting: str, four: Path, capsys) -> None:
    key = setting.split("=")[0]
    with pytest.raises(ValueError, match=f"^{key}=.*: the run has {key}=.*; start a new one, or add resume_force=true$"):
        changed(four, setting)
    changed(four, setting, force=True)
    assert f"changed: {key}=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "note"),
    [("trainer.max_steps=6", " (model.lr_schedule.total_steps follows it)"), ("trainer.devices=2", " (the same to rounding)"),
     ("trainer.max_time=00:01:00:00", ""), ("callbacks.checkpoint.keep=5", ""), ("callbacks.samples=null", ""),
     ("data.num_workers=1", ""), ("callbacks.metrics_log.every_steps=1", ""), ("debug=true", "")],
)  # fmt: skip
def test_what_does_not_is_listed(setting: str, note: str, four: Path, capsys) -> None:
    changed(four, setting)
    (line,) = [l for l in capsys.readouterr().out.splitlines() if l.startswith("changed: ")]
    assert line.startswith(f"changed: {setting.split('=')[0]}=") and " -> " in line
    assert line.endswith(note) and ("(" in line) == bool(note)


def test_an_edited_resume_yaml_is_seen(copy: Path, capsys) -> None:
    source = OmegaConf.load(copy / "resume.yaml")
    source.callbacks.ema.decay, source.callbacks.checkpoint.keep = 0.5, 7
    OmegaConf.save(source, copy / "resume.yaml")
    with pytest.raises(ValueError, match="resume.yaml has callbacks.ema.decay=0.5, and the newest checkpoint was computed with 0.9999"):
        resume(copy)
    cfg, _ = resume(copy, "resume_force=true")
    assert cfg.callbacks.ema.decay == 0.5 and cfg.callbacks.checkpoint.keep == 7
    assert "changed: callbacks.ema.decay=0.9999 -> 0.5 (another run from here on)" in capsys.readouterr().out


def test_every_setting_is_free_or_not_by_decision() -> None:
    """A new setting of training changes the result until somebody writes it into FREE: these are there today."""
    names = [name for name, _ in flat(OmegaConf.to_container(compose("train", []), resolve=False))]
    fixed = {n for n in names if not is_free(n) and n.split(".")[0] not in ("model", "data", "text_encoder", "choices")}
    assert fixed == {
        "seed", "init", "trainer.precision", "trainer.deterministic", "trainer.accumulate", "callbacks.ema._target_",
        "callbacks.ema.decay", "callbacks.ema.half_life_images", "callbacks.nan_guard._target_",
        "callbacks.nan_guard.max_in_a_row",
    }  # fmt: skip
    known = " ".join(p.read_text() for p in CONF.rglob("*.yaml"))
    assert [name for name in FREE if name.split(".")[-1] not in known] == []


# ---- precision ----


def test_the_precision_in_force_is_recorded(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("runtime.fit.cpu_prefers_bf16", lambda: True)
    main(overrides("trainer.precision=null", "trainer.max_steps=1", run=tmp_path))
    assert OmegaConf.load(tmp_path / "resume.yaml").trainer.precision == "bf16-mixed"
    saved = torch.load(checkpoint(tmp_path, 1), weights_only=True)["in_force"]
    assert saved == {"precision": "bf16-mixed", "ema_decay": 0.9999, "accelerator": "cpu", "processes": 1}
    monkeypatch.setattr("runtime.fit.cpu_prefers_bf16", lambda: False)  # another machine
    main([f"resume={tmp_path}", "trainer.max_steps=2"])
    assert torch.load(checkpoint(tmp_path, 2), weights_only=True)["in_force"]["precision"] == "bf16-mixed"


def test_a_precision_that_this_machine_lacks_is_refused(copy: Path) -> None:
    with pytest.raises(ValueError, match="trainer.precision=16-mixed: a CPU does not compute in it; choose another one"):
        main([f"resume={copy}", "trainer.max_steps=6", "trainer.precision=16-mixed", "resume_force=true"])


def test_a_run_without_the_record_goes_on(copy: Path) -> None:
    """As runs were before the precision was recorded and a lock was taken."""
    source = OmegaConf.load(copy / "resume.yaml")
    source.trainer.precision = None
    OmegaConf.save(source, copy / "resume.yaml")
    (copy / "lock").unlink()
    for step in (2, 4):
        contents = torch.load(checkpoint(copy, step), weights_only=True)
        contents["config_source"]["trainer"]["precision"] = None
        del contents["in_force"]
        torch.save(contents, checkpoint(copy, step))
    assert main([f"resume={copy}", "trainer.max_steps=6"])["step"] == 6
    assert OmegaConf.load(copy / "resume.yaml").trainer.precision in ("bf16-mixed", "32-true")


def test_a_free_name_covers_what_is_below_it_and_no_longer_name() -> None:
    assert is_free("callbacks.validate") and is_free("callbacks.validate.max_batches") and is_free("logger.wandb.project")
    assert is_free("data.cache_gb") and is_free("data.local_dir"), "where fetched shards are kept changes no batch"
    assert not any(map(is_free, ("callbacks", "trainer", "trainer.max_steps_more", "data.num_workersx", "callbacks.ema")))


def test_a_damaged_line_of_the_record_is_a_warning_and_the_run_goes_on(copy: Path, capsys) -> None:
    record = copy / "metrics.jsonl"
    first, *rest = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"\0" * 9 + first[9:] + b"".join(rest))
    main([f"resume={copy}", "trainer.max_steps=5"])
    assert f"warning: {record}: line 1 is damaged and left out" in capsys.readouterr().out
    assert checkpoint(copy, 5).exists() and record.read_bytes().startswith(b"".join(rest)) and first not in record.read_bytes()
