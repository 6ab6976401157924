"""When things happen, and what evaluation puts back."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.ema import EMA, trainable
from callbacks import steps as steps_file
from callbacks.steps import due, evaluating, finished, step_done
from callbacks.stop import Stop


def make_trainer(accumulate: int = 1, num_batches: int = 100, callbacks: Any = ()) -> SimpleNamespace:
    return SimpleNamespace(
        accumulate_grad_batches=accumulate, datamodule=SimpleNamespace(num_batches=num_batches),
        callbacks=list(callbacks), precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )  # fmt: skip


def at(batches: int, accumulate: int = 1) -> SimpleNamespace:
    return SimpleNamespace(batches_seen=batches, optimizer_steps=batches // accumulate)


def test_only_whole_optimiser_steps_count() -> None:
    trainer = make_trainer(accumulate=3)
    assert [b for b in range(1, 10) if step_done(trainer, at(b, 3))] == [3, 6, 9]
    assert [b for b in range(1, 20) if due(trainer, at(b, 3), 2)] == [6, 12, 18]
    assert [b for b in range(1, 7) if due(trainer, at(b, 3), None)] == []
    assert [b for b in range(1, 10) if due(make_trainer(accumulate=2), at(b, 2), 2)] == [4, 8]


def test_what_is_due_is_due_at_the_end_too() -> None:
    trainer = make_trainer(accumulate=2, num_batches=10)
    assert [b for b in range(1, 11) if due(trainer, at(b, 2), 3)] == [6, 10]
    assert [b for b in range(1, 11) if due(trainer, at(b, 2), None)] == [10]
    assert not finished(trainer, at(9, 2)) and finished(trainer, at(10, 2))


def test_a_run_out_of_time_is_finished_and_a_stopped_one_is_not() -> None:
    stop = Stop("00:00:00:01")
    trainer = make_trainer(callbacks=[stop])
    stop.signum = 15
    assert not finished(trainer, at(5)) and not due(trainer, at(5), 7)
    stop.signum, stop.out_of_time = 0, True
    assert finished(trainer, at(5)) and due(trainer, at(5), None)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.frozen = nn.Linear(2, 2), nn.Dropout(0.5)
        self.frozen.eval()


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_has_averages_no_gradients_and_the_runs_precision_and_puts_all_back(fails: bool) -> None:
    net, ema, entered = Net(), EMA(decay=0.5), []
    ema.params = {"part.weight": torch.full((2, 2), 7.0), "part.bias": torch.zeros(2)}
    live = net.part.weight.detach().clone()

    @contextmanager
    def precision() -> Any:
        entered.append("in")
        yield
        entered.append("out")

    trainer = make_trainer(callbacks=[ema])
    trainer.precision_plugin.val_step_context = precision if not fails else nullcontext
    try:
        with evaluating(trainer, net):
            assert torch.equal(net.part.weight, torch.full((2, 2), 7.0))
            assert not net.training and not net.part.training and not torch.is_grad_enabled()
            assert entered == ([] if fails else ["in"])
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert torch.equal(net.part.weight, live) and torch.is_grad_enabled()
    assert net.training and net.part.training and not net.frozen.training, "every part as it was"


def test_without_averages_the_live_weights_are_evaluated() -> None:
    net = Net()
    live = net.part.weight.detach().clone()
    with evaluating(make_trainer(), net):
        assert torch.equal(net.part.weight, live) and not net.training


def test_all_processes_evaluate_with_the_buffers_of_process_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own running means while it trains; a checkpoint has those of process 0."""
    net, trainer = nn.BatchNorm1d(2), make_trainer()
    monkeypatch.setattr(steps_file.dist, "broadcast", lambda tensor, source: tensor.fill_(5 + source))
    with evaluating(trainer, net, together=True):
        assert torch.equal(net.running_mean, torch.zeros(2)), "one process has nobody to ask"
    monkeypatch.setattr(steps_file.dist, "is_initialized", lambda: True)
    with evaluating(trainer, net):
        assert torch.equal(net.running_mean, torch.zeros(2)), "process 0 alone draws pictures"
    with evaluating(trainer, net, together=True):
        assert all(torch.equal(buffer, torch.full_like(buffer, 5)) for buffer in net.buffers())


def test_running_means_that_are_averaged_are_those_of_process_0_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net, ema = nn.BatchNorm1d(2), EMA(decay=0.5)
    ema.params = {name: torch.full_like(value, 3) for name, value in trainable(net).items()}
    assert "running_mean" in ema.params
    live = {name: value.detach().clone() for name, value in trainable(net).items()}
    monkeypatch.setattr(steps_file.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(steps_file.dist, "broadcast", lambda tensor, source: tensor.fill_(5 + source))
    with evaluating(make_trainer(callbacks=[ema]), net, together=True):
        assert torch.equal(net.running_mean, torch.full((2,), 5.0)) and torch.equal(net.weight, torch.full((2,), 3.0))
    assert all(torch.equal(value, live[name]) for name, value in trainable(net).items()), "training goes on as it was"
