"""What ended a training is told in one line, with the way on that there is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import DataLoader, Dataset, get_worker_info

from files import Unreachable
from runtime.accidents import answer, last_good, let_end, of_process, started, stopping_together, way_on
from runtime.checkpoint_io import AtomicCheckpointIO
from tests.toy import ToyDataset, overrides
from train import main


def with_checkpoint(folder: Path) -> Path:
    weights = {"state_dict": {"w": torch.ones(1)}, "counters": {"optimizer_steps": 3}}
    AtomicCheckpointIO().save_checkpoint(weights, folder / "checkpoints" / "step=00000003.ckpt")
    return folder


def exited(code: int) -> ProcessExitedException:
    return ProcessExitedException("process 1 terminated", error_index=1, error_pid=9, exit_code=code)


def raised_while(first: BaseException, second: BaseException) -> BaseException:
    """The second error as it is when it comes from handling the first."""
    try:
        try:
            raise first
        except BaseException:
            raise second
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("error", "signum", "code"),
    [
        (SystemExit(1), 0, 1),
        (SystemExit(1), signal.SIGTERM, 143),
        (KeyboardInterrupt(), 0, 130),
        (raised_while(KeyboardInterrupt(), SystemExit(1)), 0, 130),
        (raised_while(KeyboardInterrupt(), RuntimeError("Please call `iter(combined_loader)` first.")), 0, 130),
        (raised_while(raised_while(KeyboardInterrupt(), OSError()), AttributeError("teardown")), 0, 130),
        (raised_while(KeyboardInterrupt(), SystemExit(1)), signal.SIGTERM, 143),
    ],
)
def test_a_session_that_was_stopped_has_the_exit_code_of_the_signal(
    error: BaseException, signum: int, code: int, tmp_path: Path
) -> None:
    told = answer(error, signum, tmp_path)
    assert isinstance(told, SystemExit) and told.code == code


class Broken(Dataset):
    """Fails as a connection does, in the process that loads."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise ConnectionResetError("reset by the image server")


@pytest.mark.parametrize(("workers", "is_loader"), [(0, True), (1, False)])
def test_a_batch_lost_on_its_way_is_told_from_an_error_of_the_data(workers: int, is_loader: bool, tmp_path: Path) -> None:
    """Without workers, the error comes out of the loader itself, as it does when a worker ends while it sends."""
    with pytest.raises(ConnectionResetError) as raised:
        next(iter(DataLoader(Broken(), num_workers=workers)))
    told = answer(raised.value, 0, tmp_path)
    assert (told is raised.value) is not is_loader
    assert not is_loader or str(told).startswith("a DataLoader worker ended: give it more memory, ")
    assert answer(ConnectionResetError("elsewhere"), 0, tmp_path).args == ("elsewhere",)


class FarAway(Broken):
    """Its images lie on a network that has gone."""

    def __getitem__(self, index: int) -> int:
        raise Unreachable("s3://pairs/1.tar could not be fetched in 5 attempts: timed out")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_network_that_has_gone_is_one_line_with_the_way_on(workers: int, tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as raised:
        next(iter(DataLoader(FarAway(), num_workers=workers)))
    told = answer(raised.value, 0, with_checkpoint(tmp_path))
    assert isinstance(told, Unreachable)
    assert str(told) == f"s3://pairs/1.tar could not be fetched in 5 attempts: timed out; go on with python train.py resume={tmp_path}"


@pytest.mark.parametrize("bug", [RuntimeError("shapes do not fit"), KeyError("x"), raised_while(KeyError(), ValueError("x"))])
def test_a_bug_stays_what_it_is(bug: Exception, tmp_path: Path) -> None:
    assert answer(bug, 0, tmp_path) is bug


def test_weights_that_are_lost_come_with_the_way_back(tmp_path: Path) -> None:
    told = answer(FloatingPointError("not finite"), 0, with_checkpoint(tmp_path))
    assert isinstance(told, FloatingPointError)
    assert str(told).startswith("not finite; the last good checkpoint is step=00000003.ckpt, go back to it with")


@pytest.mark.parametrize(("code", "how"), [(-9, "SIGKILL"), (-11, "SIGSEGV"), (7, "exit code 7")])
def test_a_process_that_ended_is_named_with_what_ended_it(code: int, how: str, tmp_path: Path) -> None:
    error = of_process(exited(code), tmp_path)
    assert isinstance(error, ValueError)
    assert str(error) == f"process 1 of the training ended by {how}, and the others with it: start again"
    error = of_process(exited(code), with_checkpoint(tmp_path))
    assert str(error).endswith(f"with it: go on with python train.py resume={tmp_path}")


@pytest.mark.parametrize("code", [130, 143])
def test_a_process_that_was_asked_to_stop_gives_the_exit_code(code: int, tmp_path: Path) -> None:
    error = of_process(exited(code), tmp_path)
    assert isinstance(error, SystemExit) and error.code == code


def test_what_a_process_raised_is_raised_again_where_a_user_can_put_it_right(tmp_path: Path) -> None:
    def raised(line: str) -> BaseException:
        return of_process(ProcessRaisedException(f"\n\n-- Process 0 terminated\nTraceback\n{line}\n", 0, 9), tmp_path)

    assert isinstance(raised("ValueError: model.width=0: at least 1"), ValueError)
    assert str(raised("ValueError: model.width=0: at least 1")) == "model.width=0: at least 1"
    assert isinstance(raised("FloatingPointError: not finite"), FloatingPointError)
    assert isinstance(raised("KeyError: 'a bug'"), ProcessRaisedException), "a bug keeps its traceback"
    far = raised("files.Unreachable: s3://pairs/1.tar could not be fetched")
    assert isinstance(far, Unreachable) and str(far) == "s3://pairs/1.tar could not be fetched; start again"


def test_processes_that_wait_for_one_that_ended_are_killed() -> None:
    fork = multiprocessing.get_context("fork")
    ended, waiting = fork.Process(target=time.sleep, args=(0,)), fork.Process(target=time.sleep, args=(100,))
    for process in (ended, waiting):
        process.start()
    let_end([waiting, ended], grace_sec=0.3)
    assert ended.exitcode == 0 and waiting.exitcode == -signal.SIGKILL


def test_processes_that_all_still_save_are_waited_for() -> None:
    saving = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(1,)) for _ in range(2)]
    for process in saving:
        process.start()
    let_end(saving, grace_sec=0.5)
    assert [process.exitcode for process in saving] == [0, 0]


def waits(tell: Any) -> None:
    """As a process that waits for the others: Python answers no signal while it is inside of C."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    started(lambda: (tell.set(), time.sleep(100)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_does_not_train_yet_ends_on_a_signal(number: int) -> None:
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    process = fork.Process(target=waits, args=(begun,))
    process.start()
    begun.wait(30)
    os.kill(process.pid, number)
    process.join(10)
    code = process.exitcode
    process.kill()
    assert code == -number


def test_processes_of_an_interrupted_training_are_told_to_stop_and_waited_for() -> None:
    before, told = signal.getsignal(signal.SIGTERM), []
    launcher = SimpleNamespace(_wrapping_function=len, kill=told.append, procs=[])
    with stopping_together(launcher):
        pass
    assert not told, "a training that ends by itself has nobody to stop"
    with pytest.raises(SystemExit) as stop, stopping_together(launcher):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143 and told == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before


def test_ways_on(tmp_path: Path) -> None:
    assert way_on(tmp_path) == "start again"
    assert last_good(tmp_path) == "there is no good checkpoint, start a new run"
    with_checkpoint(tmp_path)
    assert way_on(tmp_path) == f"go on with python train.py resume={tmp_path}"
    assert last_good(tmp_path).startswith("the last good checkpoint is step=00000003.ckpt, go back to it with python train.py")


def test_a_loader_process_that_is_killed_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does where memory is short."""
    whole, seen = ToyDataset.__getitem__, []

    def killed(self: ToyDataset, key: tuple[int, int]) -> dict[str, Any]:
        seen.append(key)
        if get_worker_info() is not None and len(seen) > 90:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, key)

    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(ToyDataset, "__getitem__", killed)
        with pytest.raises(ValueError, match=r"^(a )?DataLoader worker .*: give it more memory, .* or load in this process with "
                                             rf"data.num_workers=0, then go on with python train.py resume={path}$"):  # fmt: skip
            main(overrides("data.num_workers=1", "callbacks.checkpoint.every_steps=1", run=path))
    assert main([f"resume={path}", "data.num_workers=0"])["step"] == 20
