"""When a checkpoint is saved, in which order, and what a failure means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import checkpoint as checkpoint_file
from callbacks.checkpoint import Checkpoint


class Run:
    """A trainer that writes what happens to `events`; `fails` is raised in place of saving."""

    def __init__(self, tmp_path: Path, processes: int = 1, rank: int = 0, accumulate: int = 1, **settings: Any) -> None:
        self.events: list[Any] = []
        self.fails: Exception | None = None
        self.of_process_0: Any = None
        self.callback = Checkpoint(str(tmp_path), **{"every_steps": None, "every_sec": None, **settings})
        self.module: Any = SimpleNamespace(batches_seen=0, optimizer_steps=0)
        strategy = SimpleNamespace(
            barrier=lambda *_: None, broadcast=self.broadcast,
            checkpoint_io=SimpleNamespace(rotate=lambda path, keep: self.events.append(("rotate", path.name, keep))),
        )  # fmt: skip
        self.trainer: Any = SimpleNamespace(
            accumulate_grad_batches=accumulate, datamodule=SimpleNamespace(num_batches=100), callbacks=[],
            world_size=processes, is_global_zero=rank == 0, should_stop=False, save_checkpoint=self.save,
            loggers=[SimpleNamespace(save=lambda: self.events.append("record"))], strategy=strategy,
        )  # fmt: skip

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


def test_the_clock_saves_too_and_starts_anew_at_every_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_file.time, "monotonic", lambda: now[0])
    run = Run(tmp_path, every_steps=4, every_sec=10)
    run.callback.on_train_start(run.trainer, run.module)
    for _ in range(8):
        now[0] += 4
        run.batches(1)
    assert run.saved() == [f"step={step:08d}.ckpt" for step in (3, 4, 7, 8)]


def test_process_0_has_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_file.time, "monotonic", lambda: now[0])
    run = Run(tmp_path, every_sec=10, processes=2, rank=1)
    run.of_process_0, now[0] = False, 99.0
    run.batches(1)
    assert run.saved() == []
    run.of_process_0 = True
    run.trainer.strategy.broadcast = lambda value: None if value is None else run.of_process_0
    run.batches(1)
    assert run.saved() == ["step=00000002.ckpt"]


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


def test_weights_that_are_not_finite_end_the_run_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, every_steps=1)
    run.fails = FloatingPointError("state_dict.w is not finite")
    run.batches(1)
    assert run.trainer.should_stop and "lower the learning rate" in run.callback.failure


def test_the_other_processes_stop_for_the_failure_of_process_0(tmp_path: Path, capsys) -> None:
    run = Run(tmp_path, every_steps=1, processes=2, rank=1)
    run.of_process_0 = FloatingPointError("state_dict.w is not finite")
    run.batches(1)
    assert run.trainer.should_stop and run.callback.failure and capsys.readouterr().out == ""
