"""When a checkpoint is saved and what it holds; where it cannot be: a warning on the way, an error at the end."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import checkpoint as checkpoint_file
from callbacks.checkpoint import Checkpoint
from runtime import checkpoint_io
from tests.sessions import assert_same, contents, run
from tests.toy import overrides
from train import main

# ---- step by step ----


class Run:
    """A trainer that writes what happens to `events`; `fails` is raised in place of saving."""

    def __init__(self, tmp_path: Path, processes: int = 1, rank: int = 0, accumulate: int = 1, **settings: Any) -> None:
        self.events: list[Any] = []
        self.fails: Exception | None = None
        self.of_process_0: Any = (None, 0.0)
        self.written: Any = None  # in the background
        self.callback = Checkpoint(str(tmp_path), **{"every_steps": None, "every_sec": None, **settings})
        self.module: Any = SimpleNamespace(batches_seen=0, optimizer_steps=0, train_sec=0.0)
        strategy = SimpleNamespace(
            barrier=lambda *_: None, broadcast=self.broadcast,
            checkpoint_io=SimpleNamespace(rotate=lambda path, keep: self.events.append(("rotate", path.name, keep)), finish=self.finish),
        )  # fmt: skip
        self.trainer: Any = SimpleNamespace(
            accumulate_grad_batches=accumulate, datamodule=SimpleNamespace(num_batches=100), callbacks=[],
            world_size=processes, is_global_zero=rank == 0, should_stop=False, save_checkpoint=self.save,
            loggers=[SimpleNamespace(save=lambda: self.events.append("record"))], strategy=strategy,
        )  # fmt: skip

    def finish(self) -> Any:
        self.written, found = None, self.written
        return found

    def broadcast(self, value: Any) -> Any:
        return value if self.trainer.is_global_zero else self.of_process_0

    def save(self, path: Path) -> None:
        if self.fails is not None:
            raise self.fails
        self.events.append(path.name)

    def batches(self, count: int) -> list[Any]:
        for _ in range(count):
            self.module.batches_seen += 1
            self.module.optimizer_steps = self.module.batches_seen // self.trainer.accumulate_grad_batches
            self.callback.on_train_batch_end(self.trainer, self.module)
        return self.events

    def saved(self) -> list[str]:
        return [event for event in self.events if str(event).startswith("step=")]


def test_the_record_reaches_the_disk_first_and_old_files_go_last(tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=2, keep=3)
    name = "step=00000002.ckpt"
    assert run.batches(3) == ["record", name, ("rotate", name, 3)]
    other = Run(tmp_path, every_steps=2, processes=2, rank=1)
    assert other.batches(3) == ["record", name], "process 0 alone deletes"


def test_only_whole_steps_are_saved(tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=2, accumulate=3)
    run.batches(14)
    assert run.saved() == ["step=00000002.ckpt", "step=00000004.ckpt"]
    stopping = Run(tmp_path, accumulate=3)
    stopping.trainer.should_stop = True
    stopping.batches(5)
    assert stopping.saved() == ["step=00000001.ckpt"], "a stopped run is saved, at the end of a step"


def test_the_clock_saves_too_and_starts_anew_at_every_save(tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=4, every_sec=10)
    run.module.train_sec = 100.0
    run.callback.on_train_start(run.trainer, run.module)
    for _ in range(8):
        run.module.train_sec += 4
        run.batches(1)
    assert run.saved() == [f"step={step:08d}.ckpt" for step in (3, 4, 7, 8)]


def test_all_processes_go_by_the_clock_that_they_agreed_on(tmp_path: Path) -> None:
    """Any other process would save alone, or wait for one that does not."""
    for rank in (0, 1):
        run = Run(tmp_path, every_sec=10, processes=2, rank=rank)
        for _ in range(6):
            run.module.train_sec += 4
            run.batches(1)
        assert run.saved() == ["step=00000003.ckpt", "step=00000006.ckpt"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_that_takes_long_comes_less_often(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_file.time, "monotonic", lambda: now[0])
    run = Run(tmp_path, every_sec=300, processes=2, rank=rank)
    run.of_process_0 = (None, 62.0)
    really = run.save
    run.trainer.save_checkpoint = lambda path: really(path) or now.__setitem__(0, now[0] + (62.0 if rank == 0 else 1.0))
    for _ in range(30):
        run.module.train_sec += 100
        run.batches(1)
    assert run.saved() == [f"step={step:08d}.ckpt" for step in (3, 16, 29)], "after 300 s, then every 1,240"
    told = "a checkpoint takes 62 s: by the clock one is saved every 1240 s, not every 300 s\n"
    assert capsys.readouterr().out == (told if rank == 0 else "")


def test_a_failure_during_the_run_is_a_warning_and_at_its_end_an_error(tmp_path: Path, capsys) -> None:
    run = Run(tmp_path, every_steps=1)
    run.fails = OSError("no space")
    run.batches(1)
    assert run.callback.failure is None and not run.trainer.should_stop
    assert capsys.readouterr().out == "warning: no checkpoint at step 1: no space; training goes on\n"
    run.trainer.datamodule.num_batches = 2
    run.batches(1)
    assert run.callback.failure.startswith("no checkpoint at step 2: no space") and run.trainer.should_stop
    stopped = Run(tmp_path)
    stopped.fails, stopped.trainer.should_stop = OSError("no space"), True
    stopped.batches(1)
    assert stopped.callback.failure and not stopped.saved()


def test_nothing_is_saved_while_the_gradient_is_not_finite(tmp_path: Path) -> None:
    run, guard = Run(tmp_path, every_steps=2), SimpleNamespace(in_a_row={0: 0})
    run.trainer.callbacks.append(guard)
    run.batches(1)
    guard.in_a_row[0] = 1
    run.batches(2)  # due at step 2
    guard.in_a_row[0] = 0
    run.batches(2)
    assert run.saved() == ["step=00000004.ckpt"], "at the next good step, and once"


def test_weights_that_are_not_finite_end_the_run_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=1)
    run.fails = FloatingPointError("state_dict.w is not finite")
    run.batches(1)
    assert run.trainer.should_stop and "lower the learning rate" in run.callback.failure


def test_the_other_processes_stop_for_the_failure_of_process_0(tmp_path: Path, capsys) -> None:
    run = Run(tmp_path, every_steps=1, processes=2, rank=1)
    run.of_process_0 = FloatingPointError("state_dict.w is not finite"), 0.0
    run.batches(1)
    assert run.trainer.should_stop and run.callback.failure and capsys.readouterr().out == ""


def test_in_the_background_a_save_waits_for_the_one_before_and_the_last_is_no_such_save(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = Run(tmp_path, every_steps=1, background=True, keep=3)
    io = run.trainer.strategy.checkpoint_io
    run.batches(1)
    assert io.background and run.events == ["record", "step=00000001.ckpt"], "nothing is deleted for the sake of what may fail yet"
    run.written = tmp_path / "step=00000001.ckpt", None
    run.batches(1)
    assert run.events[2:] == ["record", ("rotate", "step=00000001.ckpt", 3), "step=00000002.ckpt"] and capsys.readouterr().out == ""
    run.written = tmp_path / "step=00000002.ckpt", OSError("no space")
    run.batches(1)
    assert run.events[5:] == ["record", "step=00000003.ckpt"] and run.callback.failure is None
    assert capsys.readouterr().out == "warning: no checkpoint at step 2: no space; training goes on\n"
    run.trainer.should_stop, run.written = True, (tmp_path / "step=00000003.ckpt", OSError("no space"))
    run.batches(1)
    assert not io.background and run.events[7:] == ["record", "step=00000004.ckpt", ("rotate", "step=00000004.ckpt", 3)]
    assert capsys.readouterr().out == "warning: no checkpoint at step 3: no space\n"


# ---- in a run ----


def steps(path: Path) -> list[int]:
    return [int(p.stem.removeprefix("step=")) for p in sorted((path / "checkpoints").iterdir())]


def refuse(monkeypatch, *at: int) -> None:
    """The disk takes no checkpoint of these steps."""
    real = checkpoint_io.write

    def write(checkpoint: dict, path: Path) -> None:
        if checkpoint["counters"]["optimizer_steps"] in at:
            path.write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(checkpoint, path)

    monkeypatch.setattr(checkpoint_io, "write", write)


def test_a_checkpoint_that_cannot_be_written_on_the_way_is_a_warning(tmp_path, monkeypatch, capsys) -> None:
    refuse(monkeypatch, 8)
    assert main(overrides("callbacks.checkpoint.keep=9", run=tmp_path / "a"))["step"] == 20
    assert steps(tmp_path / "a") == [4, 12, 16, 20]
    (line,) = [l for l in capsys.readouterr().out.splitlines() if l.startswith("warning")]
    assert line.startswith(f"warning: no checkpoint at step 8: {tmp_path / 'a' / 'checkpoints'}: no space left on the disk")
    assert " needed, " in line and line.endswith(" free; training goes on")


@pytest.mark.parametrize("refused", [(20,), range(21)], ids=["last", "all"])
def test_the_last_checkpoint_that_cannot_be_written_is_an_error(refused, tmp_path, monkeypatch) -> None:
    main(overrides(run=tmp_path / "whole"))
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        refuse(patch, *refused)
        how = rf"no checkpoint at step 20: .*no space left on the disk: .*; free \d+ MB, then go on: python train.py resume={path}$"
        with pytest.raises(ValueError, match=how):
            main(overrides(run=path))
    assert steps(path) == ([12, 16] if refused == (20,) else []) and not list(path.rglob("*.tmp-*"))
    assert main([f"resume={path}"])["step"] == 20  # what the message says works
    assert_same(contents(path), contents(tmp_path / "whole"))


def test_a_signal_whose_checkpoint_cannot_be_written_does_not_say_saved(tmp_path, monkeypatch, capsys) -> None:
    import signal

    from tests import toy

    losses = toy.Toy.losses

    def stopped(self, batch):
        if self.batches_seen == 5:
            signal.raise_signal(signal.SIGTERM)
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", stopped)
    refuse(monkeypatch, 6)
    with pytest.raises(ValueError, match="no checkpoint at step 6: "):
        main(overrides(run=tmp_path))
    assert "saved" not in capsys.readouterr().out


def test_two_processes_end_alike_where_nothing_can_be_written(tmp_path: Path) -> None:
    """One process writes and the other one waits for it: neither hangs, and one error is said."""
    log = tmp_path / "log"
    more = ("trainer.devices=2", "trainer.strategy=ddp_fork", "trainer.max_steps=6", "callbacks.samples=null")
    settings = overrides(*more, "callbacks.checkpoint.dir=/dev/null/checkpoints", run=tmp_path / "run")
    assert run(settings, log) == 2, log.read_text()
    said = log.read_text()
    assert said.count("warning: no checkpoint at step 4: ") == 1 and "Traceback" not in said
    assert said.count("error: no checkpoint at step 6: ") == 1 and f"resume={tmp_path / 'run'}" in said


def test_written_in_the_background_a_run_leaves_the_same_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes each file only after the weights have moved on: what is written is the copy."""
    main(overrides("callbacks.checkpoint.keep=9", run=tmp_path / "plain"))
    real, threads = checkpoint_io.write, []

    def late(checkpoint: dict, path: Path) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(0.3)
        real(checkpoint, path)

    monkeypatch.setattr(checkpoint_io, "write", late)
    main(overrides("callbacks.checkpoint.keep=9", "callbacks.checkpoint.background=true", run=tmp_path / "run"))
    assert steps(tmp_path / "run") == steps(tmp_path / "plain") == [4, 8, 12, 16, 20] and threads == ["checkpoint"] * 4 + ["MainThread"]
    for file in sorted((tmp_path / "run" / "checkpoints").iterdir()):
        a, b = (torch.load(folder / "checkpoints" / file.name, weights_only=True) for folder in (tmp_path / "run", tmp_path / "plain"))
        assert a.keys() == b.keys()
        for part in ("state_dict", "ema", "optimizer_states", "counters", "data"):
            assert_same(a[part], b[part])
    main(overrides("callbacks.checkpoint.background=true", run=tmp_path / "few"))
    assert steps(tmp_path / "few") == [16, 20]


def test_what_is_written_in_the_background_is_there_before_a_run_ends_by_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from tests import toy

    losses, real = toy.Toy.losses, checkpoint_io.write

    def failing(self, batch):
        if self.optimizer_steps == 5:
            raise FileNotFoundError("the data has gone")
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", failing)
    monkeypatch.setattr(checkpoint_io, "write", lambda checkpoint, path: (time.sleep(0.5), real(checkpoint, path)))
    with pytest.raises(FileNotFoundError, match="the data has gone"):
        main(overrides("callbacks.checkpoint.background=true", run=tmp_path / "a"))
    assert steps(tmp_path / "a") == [4]


def test_a_checkpoint_refused_in_the_background_is_a_warning_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    refuse(monkeypatch, 8)
    assert main(overrides("callbacks.checkpoint.keep=9", "callbacks.checkpoint.background=true", run=tmp_path / "a"))["step"] == 20
    assert steps(tmp_path / "a") == [4, 12, 16, 20] and not list(tmp_path.rglob("*.tmp-*"))
    (line,) = [l for l in capsys.readouterr().out.splitlines() if l.startswith("warning")]
    assert line.startswith("warning: no checkpoint at step 8: ") and line.endswith(" free; training goes on")


def test_checkpoints_hold_the_live_weights_beside_their_average(tmp_path) -> None:
    """Validation and grids at the same step swap the averaged weights in: a checkpoint must not see them."""
    often = [f"callbacks.{name}.every_steps=4" for name in ("validate", "samples")]
    never = [f"callbacks.{name}=null" for name in ("validate", "samples")]
    for name, more in (("often", often), ("never", never)):
        main(overrides(*more, "trainer.max_steps=8", run=tmp_path / name))
    a, b = (torch.load(tmp_path / n / "checkpoints/step=00000008.ckpt", weights_only=True) for n in ("often", "never"))
    assert_same(a["state_dict"], b["state_dict"])
    assert_same(a["ema"], b["ema"])
    assert not any(torch.equal(a["ema"]["params"][k], v) for k, v in a["state_dict"].items())


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="callbacks.checkpoint.keep=0: at least 1"):
        Checkpoint("x", keep=0)
