"""Joins the processes of one evaluation when torchrun has started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from evaluation.metrics.run_evaluators import ALONE, Ranks, gather


@contextmanager
def processes() -> Iterator[Ranks]:
    """Joins the processes that torchrun started (NCCL on GPUs, else gloo); alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), world, gather)
    finally:
        dist.destroy_process_group()


def device_of(choice: str, ranks: Ranks) -> str:
    """The device of this process: `auto` is its own GPU where there is one, else the CPU."""
    if choice != "auto":
        return choice
    if not torch.cuda.is_available():
        return "cpu"
    return "cuda" if ranks.world == 1 else f"cuda:{torch.cuda.current_device()}"


def device_name(device: str, ranks: Ranks) -> str:
    """For people: "CPU, 2 threads", with the number of processes where there are several."""
    gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if gpu else f"CPU, {torch.get_num_threads()} threads"
    return name if ranks.world == 1 else f"{name}, {ranks.world} processes"
