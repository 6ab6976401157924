"""What ended a training, in a line that says how to go on."""

from __future__ import annotations

import signal
from pathlib import Path

from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from runtime.checkpoint_io import checkpoints, newest_good
from runtime.run_dir import shown

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a session that was asked to stop


def is_of_loader(error: RuntimeError) -> bool:
    """Whether torch tells with it that a loader process ended."""
    return str(error).startswith("DataLoader worker")


def loader_ended(error: RuntimeError, path: Path) -> str:
    """What to do when a loader process ended: something killed it, or its memory was used up."""
    why = " ".join(str(error).split("; ")[0].split())
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
    return kinds[name](text) if name in kinds else error


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
