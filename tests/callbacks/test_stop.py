"""Stopping: by signals, by time over several sessions, and all processes at one step."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import stop as stop_file
from callbacks.stop import Stop, parse_time


class Strategy:
    """Stands for several processes, whose codes are `codes` beside this one's; they have trained for 150 seconds."""

    root_device = "cpu"

    def __init__(self, *codes: float) -> None:
        self.codes = codes

    def reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        others = [torch.tensor([code, 150.0], dtype=torch.float64) for code in self.codes]
        return getattr(torch.stack([value, *others]), f"a{reduce_op}")(0)


def make_trainer(accumulate: int = 1, world_size: int = 1, codes: Any = ()) -> SimpleNamespace:
    return SimpleNamespace(
        accumulate_grad_batches=accumulate, received_sigterm=False, world_size=world_size, should_stop=False,
        strategy=Strategy(*codes),
    )  # fmt: skip


def stopped(stop: Stop, trainer: SimpleNamespace, batches: int = 4) -> bool:
    stop.on_train_batch_end(trainer, SimpleNamespace(batches_seen=batches))
    return trainer.should_stop


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(Stop, "clock", staticmethod(lambda: now[0]))
    return now


def test_a_signal_waits_for_the_end_of_the_optimiser_step() -> None:
    stop, trainer = Stop(), make_trainer(accumulate=3)
    stop._remember(signal.SIGTERM, None)
    assert [stopped(stop, trainer, b) for b in (1, 2, 3)] == [False, False, True]
    assert stop.signum == signal.SIGTERM and not stop.out_of_time


def test_lightnings_own_record_of_a_signal_counts() -> None:
    stop, trainer = Stop(), make_trainer()
    assert not stopped(stop, trainer)
    trainer.received_sigterm = True
    assert stopped(stop, trainer) and stop.signum == signal.SIGTERM


def test_the_second_ctrl_c_does_not_wait() -> None:
    stop = Stop()
    stop._remember(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop._remember(signal.SIGINT, None)
    other = Stop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        other._remember(signum, None)
    assert other.signum == signal.SIGTERM


def test_ctrl_c_before_the_first_step_ends_the_run_there() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop, trainer = Stop(), make_trainer()
    stop.setup(trainer, None, "fit")
    os.kill(os.getpid(), signal.SIGINT)  # nothing is raised, wherever it comes
    assert stop.signum == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        stop.on_train_start(trainer, SimpleNamespace())
    stop.teardown(trainer, None, "fit")
    assert signal.getsignal(signal.SIGINT) is before


def test_once_all_is_saved_another_ctrl_c_changes_nothing() -> None:
    before, term = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for signum, then in ((0, "raises"), (signal.SIGINT, "ignored")):
        stop, trainer = Stop(), make_trainer()
        stop.setup(trainer, None, "fit")
        stop.on_train_start(trainer, SimpleNamespace())
        stop.signum = signum
        stop.on_train_end(trainer, None)
        assert (signal.getsignal(signal.SIGINT) == signal.SIG_IGN) is (then == "ignored")
        stop.teardown(trainer, None, "fit")
        assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGTERM, term)  # what Lightning puts back at the end of a run


def test_of_several_processes_none_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_file.signal, "signal", lambda *_: None)
    stop = Stop()
    stop.signum = signal.SIGINT
    stop.on_train_start(make_trainer(world_size=2, codes=(2.0,)), SimpleNamespace())
    assert stopped(stop, make_trainer(world_size=2, codes=(2.0,)))


def test_time_is_summed_over_sessions_and_its_end_is_no_signal(clock: list[float]) -> None:
    first, trainer = Stop("00:00:01:00"), make_trainer()
    clock[0] += 45
    assert first.train_sec == 45 and not stopped(first, trainer)
    second = Stop("00:00:01:00")
    second.load_state_dict(first.state_dict())
    clock[0] += 14
    assert second.train_sec == 59 and not stopped(second, trainer)
    clock[0] += 1
    assert stopped(second, trainer) and second.out_of_time and second.signum == 0


def test_the_module_is_told_how_much_of_the_time_is_used(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_file.signal, "signal", lambda *_: None)
    stop, module = Stop("00:00:01:00"), SimpleNamespace(batches_seen=4)
    stop.load_state_dict({"train_sec": 15.0})
    stop.on_train_start(make_trainer(), module)
    assert module.time_share == 0.25, "the first step of a resumed session knows it"
    for seconds, share in ((15, 0.5), (60, 1.0)):
        clock[0] += seconds
        stop.on_train_batch_end(make_trainer(), module)
        assert module.time_share == share
    later = Stop("00:00:10:00")
    clock[0] += 60
    later.on_train_batch_end(make_trainer(world_size=2, codes=(0.0,)), module)
    assert module.time_share == 0.25 and module.train_sec == 150, "the furthest process decides"
    alone = Stop()
    clock[0] += 7
    alone.on_train_batch_end(make_trainer(), module)
    assert module.time_share == 0 and module.train_sec == 7


def test_time_before_the_first_step_is_not_training(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_file.signal, "signal", lambda *_: None)
    stop = Stop()
    clock[0] += 100
    stop.on_train_start(make_trainer(), SimpleNamespace())
    clock[0] += 3
    assert stop.train_sec == 3


@pytest.mark.parametrize(
    ("codes", "out_of_time", "signum"), [((0.0,), False, 0), ((15.0,), False, 15), ((1.0,), True, 0)]
)
def test_all_processes_stop_for_what_one_of_them_knows(codes: tuple, out_of_time: bool, signum: int) -> None:
    stop, trainer = Stop(), make_trainer(world_size=2, codes=codes)
    assert stopped(stop, trainer) is (out_of_time or bool(signum))
    assert (stop.out_of_time, stop.signum) == (out_of_time, signum)


def test_times_are_days_hours_minutes_seconds() -> None:
    assert parse_time("01:02:03:04") == 86400 + 2 * 3600 + 3 * 60 + 4
    with pytest.raises(ValueError, match="trainer.max_time='1:2': write days:hours:minutes:seconds"):
        parse_time("1:2")
