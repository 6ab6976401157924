"""The line of progress: what it holds, who prints it, and the time left by steps and by the clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from callbacks import progress
from callbacks.progress import Progress, clock
from callbacks.stop import Stop


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def trainer(batches: int = 10, zero: bool = True, callbacks: tuple = ()) -> SimpleNamespace:
    return SimpleNamespace(is_global_zero=zero, accumulate_grad_batches=1, callbacks=callbacks,
                           datamodule=SimpleNamespace(num_batches=batches))  # fmt: skip


def module(steps: int, images: int) -> SimpleNamespace:
    losses = {name: torch.tensor(0.5) for name in ("loss", "a", "b", "c", "fifth")}
    return SimpleNamespace(optimizer_steps=steps, images_seen=images, last_losses=losses)


def test_hours_minutes_and_seconds() -> None:
    assert [clock(s) for s in (0, 59.6, 3599, 3661)] == ["0:00:00", "0:01:00", "0:59:59", "1:01:01"]


def test_the_first_step_and_then_one_line_every_so_many_seconds(now: list[float], capsys) -> None:
    callback, run = Progress(every_sec=10), trainer()
    callback.on_train_start(run, module(0, 0))
    for second in range(1, 25):
        now[0] = 100 + second
        callback.on_train_batch_end(run, module(min(second, 9), 8 * second))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("step 1/10  images 8  loss 0.5000  a 0.5000")
    assert "8.0 img/s" in lines[0] and "0:00:09 left" in lines[0] and "fifth" not in lines[0]


def test_the_last_step_is_printed_and_other_processes_are_silent(now: list[float], capsys) -> None:
    for zero, count in ((True, 2), (False, 0)):
        callback, run = Progress(), trainer(zero=zero)
        callback.on_train_start(run, module(0, 0))
        now[0] += 1
        callback.on_train_batch_end(run, module(1, 8))
        now[0] += 1
        callback.on_train_end(run, module(2, 16))
        assert len(capsys.readouterr().out.splitlines()) == count


def test_the_time_left_is_that_of_the_nearer_end(now: list[float], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop(max_time="00:00:00:05")
    monkeypatch.setattr(Stop, "train_sec", 2.0)
    for batches, left in ((10, "0:00:03 left"), (3, "0:00:02 left"), (progress.UNLIMITED, "0:00:03 left")):
        callback, run = Progress(), trainer(batches, callbacks=(stop,))
        callback.on_train_start(run, module(0, 0))
        now[0] += 1
        callback.on_train_batch_end(run, module(1, 8))
        assert left in capsys.readouterr().out
