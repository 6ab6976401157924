"""What the programs of peers share: a job, its data and its batches. Needs torch, nothing of this repository but benchmarks.peer_ddpm.

A job is a JSON file that names a file of tensors (images_u8 (N, 3, S, S), text_of (N,), embeds (U, L, D), mask (U, L), prompt_text (P,)),
where the result goes, and the settings of the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peer_ddpm import processor_sec

Data = dict[str, Tensor]


def read_job(path: str) -> tuple[dict[str, Any], Data]:
    """The job and its tensors; from here on torch has one thread and the job's seed."""
    job = json.loads(Path(path).read_text())
    torch.set_num_threads(1)
    torch.manual_seed(job["seed"])
    return job, torch.load(job["data"], weights_only=True)


def batches(data: Data, batch: int, cpu_sec: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images uint8 (B, 3, S, S), text (B, L, D) and mask (B, L) in random order, until the processor seconds are used; at least one batch."""
    began, count, order, first = processor_sec(), len(data["images_u8"]), torch.empty(0, dtype=torch.int64), True
    while first or processor_sec() - began < cpu_sec:
        if len(order) < batch:
            order = torch.randperm(count) if count >= batch else torch.randint(count, (batch,))
        rows, order, first = order[:batch], order[batch:], False
        text = data["text_of"][rows]
        yield data["images_u8"][rows], data["embeds"][text], data["mask"][text]


def draw(data: Data, batch: int, images_for: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """uint8 (P, 3, S, S) for the prompts, from a function of text (B, L, D) and mask (B, L) that gives images in [0, 1]."""
    parts, total = [], len(data["prompt_text"])
    for text in data["prompt_text"].split(batch):
        parts.append((images_for(data["embeds"][text], data["mask"][text]).float().clamp(0, 1) * 255).round().to(torch.uint8))
        print(f"{sum(map(len, parts))}/{total} images drawn", flush=True)
    return torch.cat(parts)
