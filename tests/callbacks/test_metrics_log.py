"""Training curves: means over windows, whole across a resume and over processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import metrics_log
from callbacks.metrics_log import MetricsLog
from callbacks.nan_guard import NanGuard


class Run:
    """A trainer and a module as far as this callback looks at them."""

    def __init__(self, callback: MetricsLog, accumulate: int = 1, processes: int = 1) -> None:
        self.callback, self.lines = callback, []
        self.module: Any = SimpleNamespace(
            batches_seen=0, optimizer_steps=0, images_seen=0, device="cpu", last_losses={}, last_grad_norms={}
        )
        groups = [{"lr": 0.1}, {"lr": 0.2}]
        self.trainer: Any = SimpleNamespace(
            accumulate_grad_batches=accumulate, datamodule=SimpleNamespace(num_batches=1000), callbacks=[],
            optimizers=[SimpleNamespace(param_groups=groups[:1]), SimpleNamespace(param_groups=groups[1:])],
            loggers=[SimpleNamespace(log_metrics=lambda line, step: self.lines.append((step, line)))],
            world_size=processes, strategy=SimpleNamespace(reduce=self.reduce),
            profiler=SimpleNamespace(seconds=0.0),
        )  # fmt: skip
        callback.on_train_start(self.trainer, self.module)

    @staticmethod
    def reduce(value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return getattr(torch.stack([value, 3 * value]), reduce_op)(0)

    def batch(self, losses: dict[str, float], norm: float | None = None, dtype: torch.dtype = torch.float32) -> None:
        module = self.module
        module.last_losses = {name: torch.tensor(value, dtype=dtype) for name, value in losses.items()}
        if norm is not None:
            module.last_grad_norms = {"model": torch.tensor(norm)}
        module.batches_seen += 1
        module.images_seen += 8
        module.optimizer_steps = module.batches_seen // self.trainer.accumulate_grad_batches
        self.callback.on_train_batch_end(self.trainer, module)


def test_each_value_is_the_mean_of_its_own_count() -> None:
    run = Run(MetricsLog(every_steps=2), accumulate=2)
    for i in range(8):  # a loss at every batch, a norm at every step, a penalty once a window
        run.batch({"loss": float(i)} | ({"r1": 10.0 + i} if i % 4 == 0 else {}), norm=float(i) if i % 2 else None)
    assert [step for step, _ in run.lines] == [2, 4]
    first, second = ({k: v for k, v in line.items() if not k.startswith("time/")} for _, line in run.lines)
    assert first == {"images": 32, "train/loss": 1.5, "train/r1": 10.0, "train/grad_norm/model": 2.0,
                     "train/lr": 0.1, "train/lr_1": 0.2}  # fmt: skip
    assert second == first | {"images": 64, "train/loss": 5.5, "train/r1": 14.0, "train/grad_norm/model": 6.0}


def test_half_a_window_goes_on_after_a_resume() -> None:
    whole, before = Run(MetricsLog(4)), Run(MetricsLog(4))
    for i in range(4):
        whole.batch({"loss": float(i)})
    for i in range(3):
        before.batch({"loss": float(i)})
    callback = MetricsLog(4)
    callback.load_state_dict(before.callback.state_dict())
    after = Run(callback)
    after.module.batches_seen, after.module.images_seen = 3, 24
    after.batch({"loss": 3.0})
    assert after.lines[0][1]["train/loss"] == whole.lines[0][1]["train/loss"] == 1.5


def test_each_process_gets_its_own_sums_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes; a run that goes on with another number of them begins with the mean."""
    sums = {"train/loss": torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)}

    def sums_of(rank: int, world: int) -> float:
        monkeypatch.setattr(metrics_log.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(metrics_log.dist, "get_rank", lambda: rank)
        monkeypatch.setattr(metrics_log.dist, "get_world_size", lambda: world)
        callback = MetricsLog()
        callback.load_state_dict({"sums": sums, "counts": {"train/loss": 1}})
        return callback.sums["train/loss"].item()

    assert [sums_of(rank, 3) for rank in range(3)] == [1, 2, 6]
    assert [sums_of(rank, 2) for rank in range(2)] == [3, 3]


def test_processes_are_averaged() -> None:
    run = Run(MetricsLog(1), processes=2)
    run.batch({"loss": 1.0})
    assert run.lines[0][1]["train/loss"] == 2.0, "the mean of 1 and 3"


def test_sums_lose_no_digits_of_half_precision() -> None:
    run = Run(MetricsLog(1000))
    for _ in range(1000):
        run.batch({"loss": 1.0}, dtype=torch.bfloat16)
    assert run.lines[0][1]["train/loss"] == 1.0


def test_the_rate_is_that_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    run = Run(MetricsLog(2))
    for i in range(4):
        now[0] += 1 + i // 2  # the second window takes twice as long
        run.batch({"loss": 0.0})
    assert [line["time/images_per_sec"] for _, line in run.lines] == [8.0, 4.0]


def test_the_wait_for_data_is_a_share_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: now[0])
    run = Run(MetricsLog(1))
    for waited in (0.5, 1.5):
        now[0] += 2
        run.trainer.profiler.seconds += waited
        run.batch({"loss": 0.0})
    assert [line["time/data_wait"] for _, line in run.lines] == [0.25, 0.75]


def test_skipped_steps_are_shown_where_there_are_any() -> None:
    run, guard = Run(MetricsLog(1)), NanGuard()
    run.trainer.callbacks.append(guard)
    run.batch({"loss": 1.0})
    guard.total = 3
    run.batch({"loss": 1.0})
    assert "train/skipped_steps" not in run.lines[0][1] and run.lines[1][1]["train/skipped_steps"] == 3
