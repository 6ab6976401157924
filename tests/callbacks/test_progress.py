"""The line of progress: what it holds, who prints it, and the time left by steps and by the clock."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks import progress
from callbacks.progress import Progress, clock
from callbacks.stop import Stop
from runtime.config import REPO


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def trainer(batches: int = 10, zero: bool = True, callbacks: tuple = ()) -> SimpleNamespace:
    return SimpleNamespace(is_global_zero=zero, accumulate_grad_batches=1, callbacks=callbacks,
                           datamodule=SimpleNamespace(num_batches=batches))  # fmt: skip


def module(steps: int, images: int, names: tuple[str, ...] = ("loss", "a", "b", "c", "fifth")) -> SimpleNamespace:
    losses = {name: torch.tensor(0.5) for name in names}
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


def test_losses_come_before_what_else_is_known(now: list[float], capsys) -> None:
    """Of a GAN's five values the two losses are shown, wherever they stand."""
    callback, run, two = Progress(), trainer(), module(1, 8, ("d_loss", "accuracy_real", "accuracy_fake", "score_real", "g_loss"))
    callback.on_train_start(run, module(0, 0))
    now[0] += 1
    callback.on_train_batch_end(run, two)
    assert "  d_loss 0.5000  g_loss 0.5000  accuracy_real 0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(("columns", "shown"), [(140, ("img/s", "c 0.5", "images")), (80, ("img/s", "loss", "images")), (60, ("img/s", "images")), (30, ())])
def test_no_line_is_wider_than_the_terminal(columns: int, shown: tuple, now: list[float], capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that wraps cannot be overwritten, and every refresh would leave one behind."""
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    callback, run = Progress(), trainer(12345)
    callback.on_train_start(run, module(0, 0))
    for step in (1, 2, 3):
        now[0] += 2
        callback.on_train_batch_end(run, module(step, 123456 * step))
    *lines, rest = capsys.readouterr().out.split("\r")
    assert len(lines) == 3 and rest == "" and {len(line) for line in lines} == {columns - 1}
    assert all(line.startswith("step ") and line.rstrip().endswith("left") for line in lines)
    assert all(part in line for part in shown for line in lines)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_on_a_real_terminal_one_line_stays(columns: int, tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text(
        "import time\nfrom tests.callbacks.test_progress import Progress, module, trainer\n"
        "callback, run = Progress(), trainer(12345)\ncallback.on_train_start(run, module(0, 0))\n"
        "callback.on_train_batch_end(run, module(1, 99999))\ncallback.on_train_end(run, module(2, 123456))\n"
    )
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")} | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, str(script)], stdin=child, stdout=child, stderr=child, env=env)
    os.close(child)
    seen = b""
    try:
        while chunk := os.read(parent, 4096):
            seen += chunk
    except OSError:  # Linux says so when the other side is closed
        pass
    assert process.wait() == 0 and seen.count(b"\n") == 1
    assert max(len(line) for line in seen.decode().replace("\n", "").split("\r")) < columns
