"""The share of a training that waits for data."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from callbacks import data_wait
from callbacks.data_wait import DataWait
from datamodules.base import ImageDataModule
from runtime.jsonl import last_values
from tests.toy import overrides
from train import main


def test_only_the_fetching_of_batches_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(data_wait.time, "monotonic", lambda: now[0])
    wait = DataWait()
    for action, seconds in (("run_training_batch", 5.0), ("[_TrainingEpochLoop].train_dataloader_next", 2.0), ("[_TrainingEpochLoop].train_dataloader_next", 1.0)):
        wait.start(action)
        now[0] += seconds
        wait.stop(action)
    assert wait.seconds == 3.0


def test_an_end_without_a_beginning_counts_nothing() -> None:
    wait = DataWait()
    wait.stop("[_TrainingEpochLoop].train_dataloader_next")
    assert wait.seconds == 0.0


def test_a_run_says_how_long_it_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, made = ImageDataModule.train_dataloader, []

    def slow(self):
        loader = inner(self)
        collate = loader.collate_fn
        loader.collate_fn = lambda items: time.sleep(0.2) or collate(items)
        return loader

    def remembered(self, start=DataWait.__init__):
        start(self)
        made.append(self)

    monkeypatch.setattr(ImageDataModule, "train_dataloader", slow)
    monkeypatch.setattr(DataWait, "__init__", remembered)
    main(overrides("trainer.max_steps=4", "callbacks.metrics_log.every_steps=4", run=tmp_path / "run"))
    assert made[-1].seconds >= 4 * 0.2
    assert 0 < last_values(tmp_path / "run")["time/data_wait"] < 1
