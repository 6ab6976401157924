"""What ended a training, in a line that says how to go on."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.utils.data import dataloader

from files import Unreachable
from runtime.checkpoint_io import checkpoints, newest_good
from runtime.run_dir import shown

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a session that was asked to stop


def answer(error: BaseException, signum: int, path: Path) -> BaseException:
    """What a command raises for what ended `trainer.fit`: an exit code, a line where a user can put it right, or
    the error itself.

    Args:
        signum: the signal that the training was asked to stop by, 0 for none.
    """
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    # Lightning answers Ctrl-C with exit code 1, and before the first batch with an error of its own clearing up.
    interrupted = any(isinstance(e, KeyboardInterrupt) for e in chain)
    if isinstance(error, SystemExit) and error.code in STOPPED:
        return SystemExit(error.code)
    if interrupted or isinstance(error, SystemExit):
        signum = signum or (signal.SIGINT if interrupted else 0)
        return SystemExit(128 + signum if signum else 1)
    if isinstance(error, (ProcessRaisedException, ProcessExitedException)):
        return of_process(error, path)
    if isinstance(error, FloatingPointError):
        return FloatingPointError(f"{error}; {last_good(path)}")
    if isinstance(error, Unreachable):
        told = str(error).strip().splitlines()[-1].removeprefix("files.Unreachable: ")  # from a loader process it comes with a traceback
        return Unreachable(f"{told}; {way_on(path)}")
    return ValueError(loader_ended(error, path)) if is_of_ended_loader(error) else error


def is_of_ended_loader(error: BaseException) -> bool:
    """Whether the training misses a loader process: torch says so, or the process ended while it handed over a batch."""
    if isinstance(error, (ConnectionError, EOFError)) and not str(error).startswith("Caught "):
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
        return any(name == dataloader.__file__ for name in files)
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def loader_ended(error: BaseException, path: Path) -> str:
    """What to do when a loader process ended: something killed it, or its memory was used up."""
    why = " ".join(str(error).split()) if isinstance(error, RuntimeError) else "a DataLoader worker ended"
    cure = "give it more memory, shared memory among it, or load in this process with data.num_workers=0"
    return f"{why}: {cure}, then {way_on(path)}"


def of_process(error: ProcessRaisedException | ProcessExitedException, path: Path) -> BaseException:
    """What ended a process of strategy=ddp_fork: a line where a user can put it right, else the error itself."""
    if isinstance(error, ProcessExitedException):
        number, code = error.error_index, error.exit_code
        if code in STOPPED:
            return SystemExit(code)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ValueError(f"process {number} of the training ended by {how}, and the others with it: {way_on(path)}")
    last = str(error).strip().splitlines()[-1]
    kinds = {kind.__name__: kind for kind in (ValueError, FileNotFoundError, FloatingPointError)}
    name, _, text = last.partition(": ")
    if name == "files.Unreachable":
        return Unreachable(f"{text}; {way_on(path)}")
    return kinds[name](text) if name in kinds else error


def started(function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a process of strategy=ddp_fork.

    Until training begins, a signal ends the process at once, even while it waits for the others.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    return function(*arguments)


@contextmanager
def stopping_together(launcher: Any) -> Iterator[None]:
    """Around `trainer.fit` with strategy=ddp_fork: its processes stop, and save, when this one is asked to stop.

    Ctrl-C reaches all of them by itself, SIGTERM this one alone.
    """
    launcher._wrapping_function = partial(started, launcher._wrapping_function)
    earlier = signal.signal(signal.SIGTERM, _stopped)
    try:
        yield
    except BaseException:
        launcher.kill(signal.SIGTERM)  # a second Ctrl-C would not let them save
        let_end(launcher.procs)
        raise
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _stopped(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)


def let_end(processes: Sequence[BaseProcess], grace_sec: float = 30.0) -> None:
    """Waits for the processes of an interrupted training, which save what they have.

    Once one of them has ended, the others are killed after `grace_sec`: where they wait for it, they would wait for ever.
    """
    first_end = None
    while alive := [process for process in processes if process.is_alive()]:
        if len(alive) < len(processes):
            first_end = first_end or time.monotonic()
            if time.monotonic() - first_end > grace_sec:
                for process in alive:
                    process.kill()
        alive[0].join(0.1)


def last_good(path: Path) -> str:
    """Where a run whose weights are lost can go on from."""
    good = newest_good(path / "checkpoints")
    if good is None:
        return "there is no good checkpoint, start a new run"
    how = f"python train.py resume={shown(path)}, with the change and resume_force=true"
    return f"the last good checkpoint is {good.name}, go back to it with {how}"


def way_on(path: Path) -> str:
    """How to go on after an accident."""
    return f"go on with python train.py resume={shown(path)}" if checkpoints(path / "checkpoints") else "start again"
