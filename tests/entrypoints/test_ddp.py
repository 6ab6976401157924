"""Two processes against one: the same run to rounding, also when the number changes on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.sessions import left_behind, processes_of
from tests.sessions import assert_same, contents, overrides, run, start, wait_for

REPO = Path(__file__).resolve().parents[2]
TWO = ("trainer.devices=2", "trainer.strategy=ddp_fork", "model.dropout=0", "trainer.max_steps=8")


def assert_close(a: dict, b: dict) -> None:
    for name, value in a["state_dict"].items():
        assert torch.allclose(value, b["state_dict"][name], atol=2e-6), name
    for name, value in a["ema"]["params"].items():
        assert torch.allclose(value, b["ema"]["params"][name], atol=2e-6), name
    assert a["counters"] == b["counters"]
    for x, y in zip(a["metrics"].splitlines(), b["metrics"].splitlines(), strict=True):
        x, y = json.loads(x), json.loads(y)
        assert list(x) == list(y)
        assert all(abs(x[key] - y[key]) < 1e-5 for key in x), (x, y)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides(*TWO[2:], run=tmp_path / "one"), log) == 0, log.read_text()
    assert run(overrides(*TWO, run=tmp_path / "two"), log) == 0, log.read_text()
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert_close(one, two)
    assert two["metrics"].count(b"\n") == one["metrics"].count(b"\n")  # process 0 alone writes


def machines(*arguments: str, devices: int) -> list[str]:
    """Two torchruns in place of two machines, `devices` processes each; what each of them says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ["--master_addr=127.0.0.1", f"--master_port={free.getsockname()[1]}"]
    settings = ["trainer.strategy=ddp", f"trainer.devices={devices}", "trainer.num_nodes=2", *arguments]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--nproc_per_node={devices}", f"--node_rank={rank}", *address,
             "-m", "tests.toy", *settings],
            cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    texts = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(texts)
    return texts


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_machines_equal_one_process_and_go_on_as_one(devices: int, tmp_path: Path) -> None:
    log, common = tmp_path / "log", ("model.dropout=0", "data.batch_size=8", "model.lr_schedule=null")
    assert run(overrides(*common, "trainer.max_steps=8", run=tmp_path / "one"), log) == 0, log.read_text()
    texts = machines(*overrides(*common, "trainer.max_steps=5", run=tmp_path / "machines"), devices=devices)
    assert "finished    step 5" in texts[0] and "finished" not in texts[1], "process 0 alone tells"
    alone = ("trainer.num_nodes=1", "trainer.devices=1", "trainer.strategy=auto", "trainer.max_steps=8")
    assert run([f"resume={tmp_path / 'machines'}", *alone], log) == 0, log.read_text()
    assert "changed: trainer.num_nodes=2 -> 1 (the same to rounding)" in log.read_text()
    one, several = contents(tmp_path / "one"), contents(tmp_path / "machines")
    assert one["counters"] == several["counters"]
    for name, value in one["state_dict"].items():
        assert torch.allclose(value, several["state_dict"][name], atol=2e-6), name


def test_a_batch_that_two_processes_cannot_share_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides(*TWO, "data.batch_size=5", run=tmp_path / "run"), log) == 2
    assert "data.batch_size=5" in log.read_text() and "Traceback" not in log.read_text()


def test_what_ends_one_process_ends_all_and_nothing_is_lost(tmp_path: Path) -> None:
    """Stopped by a signal to one of them, then one of them killed, both in the middle of a window of metrics."""
    two = ("trainer.devices=2", "trainer.strategy=ddp_fork", "callbacks.checkpoint.every_steps=1",
           "callbacks.metrics_log.every_steps=10", "model.sleep_sec=0.05")  # fmt: skip
    path, log = tmp_path / "run", tmp_path / "log"
    assert run(overrides(*two, run=tmp_path / "whole"), log) == 0, log.read_text()
    [last] = [line for line in log.read_text().splitlines() if line.startswith("finished")]
    assert last.startswith("finished    step 20  images 160  ")
    ends = [(3, 1, signal.SIGTERM, 143, "stopped by SIGTERM at step "),
            (7, None, signal.SIGTERM, 143, f"stopped: go on with python train.py resume={path}\n"),
            (12, 0, signal.SIGKILL, 2, "error: process 0 of the training ended by SIGKILL, and the others with it: go on with "
                                       f"python train.py resume={path}\n")]  # fmt: skip
    for step, rank, number, code, words in ends:
        process = start([f"resume={path}"] if path.exists() else overrides(*two, run=path), log)
        wait_for(lambda: (path / "checkpoints" / f"step={step:08d}.ckpt").exists(), process)
        of_training = sorted(pid for pid in processes_of(process.pid) if pid != process.pid)
        os.kill(process.pid if rank is None else of_training[rank], number)
        process.join(60)
        assert not left_behind(process.pid)
        assert process.exitcode == code and words in log.read_text(), log.read_text()
    assert run([f"resume={path}"], log) == 0 and "Traceback" not in log.read_text(), log.read_text()
    assert_same(contents(path), contents(tmp_path / "whole"))
