"""Two processes share the images and give what one gives, to the last digit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[3]
N = 401  # odd: the shares differ

PROGRAM = f"""
import json, os
import torch, torch.distributed as dist
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import FrechetDistance
from evaluation.metrics.inception_score import InceptionScore
from evaluation.metrics.kernel_distance import KernelDistance
from evaluation.metrics.likelihood import Likelihood
from evaluation.metrics.memorisation import Memorisation
from evaluation.metrics.precision_recall import PRDC
from evaluation.metrics.prompt_set import PromptSet
from evaluation.metrics.reconstruction import Reconstruction
from evaluation.metrics.sliced_wasserstein import SlicedWasserstein
from tests.evaluation.pixel_features import Pixels, images

class Small(EfficientNetLite0):  # real features, fewer of them: the eigenproblem is not what is tested
    def _features(self, net, image_u8):
        return super()._features(net, image_u8)[:, ::10]

torch.set_num_threads(1)
rank, world, batch = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "BATCH"))
if world > 1:
    dist.init_process_group("gloo")

def gather(mine):
    parts = [mine] * world
    if world > 1:
        dist.all_gather_object(parts, mine)
    return parts

n, pixels = {N}, Pixels(32)
real, fake, reference = (images(n, seed, high=high, side=8) for seed, high in ((0, 256), (1, 200), (2, 256)))
nats = torch.linspace(90, 200, n).double()
few = FrechetDistance(Small(input_size=32), controls=False)
evaluators = [FrechetDistance(pixels), KernelDistance(pixels), SlicedWasserstein(pixels), PRDC(pixels), few,
              Memorisation(pixels), InceptionScore(pixels), Reconstruction(), Likelihood()]
train, holdout = images(300, 3, side=8), images(200, 4, side=8)
prompts = PromptSet("x", None, None, None, real, None, None, train=train, holdout=holdout)
for evaluator in evaluators:
    evaluator.prepare(prompts)
    mine = list(range(129 if evaluator is few else n))[rank::world]
    for start in range(0, len(mine), batch):
        i = mine[start : start + batch]
        evaluator.update(real[i], fake[i], None, indices=i, reference=reference[i], reconstruction=real[i] // 3 * 3,
                         likelihood={{"elbo_nats": nats[i]}})
    evaluator.sync(gather)
found = {{e.name: e.compute() for e in evaluators}} if rank == 0 else {{}}

padded = Likelihood()
padded.update(real[:4], fake[:4], None, indices=range(4), likelihood={{"elbo_nats": nats[:4]}})
try:
    padded.sync(gather)
except ValueError as error:
    found["padded"] = str(error)
if rank == 0:
    print(json.dumps(found))
if world > 1:
    dist.destroy_process_group()
"""


def started(world: int, batch: int, port: int) -> list[subprocess.Popen]:
    """One process per rank."""
    base = os.environ | {
        "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world), "BATCH": str(batch),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env=base | {"RANK": str(rank)}, text=True, cwd=REPO,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]  # fmt: skip


def printed(processes: list[subprocess.Popen]) -> dict[str, Any]:
    """What process 0 prints, once all have ended well."""
    try:
        done = [process.communicate(timeout=280) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(error for _, error in done)
    return json.loads(done[0][0])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_equal_one_to_the_last_digit_and_find_an_image_that_both_have() -> None:
    runs = started(1, 64, 0), started(2, 50, free_port())
    one, two = map(printed, runs)
    assert "image 0 came twice (4 such): a padded" in two.pop("padded")
    assert len(one) == 9 and all(len(values) >= 2 for values in one.values())
    assert two == one
