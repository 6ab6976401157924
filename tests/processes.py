"""Two processes that compute together over gloo, forked from one that has imported everything."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.sessions import start, start_call


def in_two(function: Callable[..., None], folder: Path, *arguments: Any, timeout: float = 120) -> None:
    """Calls a function that can be imported by its name in two processes of one group; an error in one of them fails the test."""
    port = _port()
    started = [start_call(_member, (rank, port, function, arguments), folder / f"log{rank}") for rank in range(2)]
    for process in started:
        process.join(timeout)
    codes = [process.exitcode for process in started]
    for process in started:
        if process.is_alive():
            process.kill()
    said = "\n---\n".join((folder / f"log{rank}").read_text()[-3000:] for rank in range(2))
    assert codes == [0, 0], f"exit codes {codes}\n{said}"


def rank_started(arguments: Sequence[str], folder: Path) -> list[BaseProcess]:
    """Two processes of train.py, as torchrun starts them on a machine; what they say is in log0 and log1."""
    port = _port()
    return [start(arguments, folder / f"log{rank}", functools.partial(as_rank, rank, port)) for rank in range(2)]


def as_rank(rank: int, port: int) -> None:
    """Makes this process one of two."""
    from lightning_utilities.core.rank_zero import rank_zero_only as of_utilities
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    values = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in values.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    rank_zero_only.rank = of_utilities.rank = rank  # read from the environment when they were imported


def _member(rank: int, port: int, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    as_rank(rank, port)
    dist.init_process_group("gloo")
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
