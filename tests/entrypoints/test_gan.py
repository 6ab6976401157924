"""GANs through the real scripts: killed and resumed bit for bit, two processes as one, averaged, drawn by class."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from contracts import Request
from runtime.checkpoint import load_module
from tests.entrypoints.test_ddp import assert_close
from tests.sessions import assert_same, contents, overrides, run, start, wait_for
from train import main

STEPS = 60
# Every step is saved, so that kills fall into all of training and saving.
COMMON = ("model=gan", f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_steps=1",
          "callbacks.ema.half_life_images=100")  # fmt: skip
POINTS = ("data=ring", "data.batch_size=16", "data.num_images=200", "data.num_val=20", "players=mlp",
          "players.generator.hidden=[16]", "players.discriminator.hidden=[16]", "callbacks.samples=null")  # fmt: skip
# Buffers of batch norm and spectral norm, uneven turns, penalties at some steps, batches held back.
VARIANTS = {
    "convolutional": (
        "data=toy", "model.image_size=4", "players.generator.dims=[8,8]", "players.discriminator.dims=[8,8]",
        "players.discriminator.spectral=true", "model.augment=[color,translation]", "model.critic_steps=2",
        "callbacks.samples.every_steps=25",
    ),
    "points": (
        *POINTS, "model.conditional=true", "model.r1=0.1", "model.penalty_every=4", "model.critic_steps=3",
        "trainer.accumulate=2",
    ),
}  # fmt: skip


def arguments(variant: str, path: Path, *more: str) -> list[str]:
    return overrides(*COMMON, *VARIANTS[variant], *more, run=path)


@pytest.mark.parametrize("variant", ["convolutional", pytest.param("points", marks=pytest.mark.slow)])
def test_random_kills_change_nothing(variant: str, tmp_path: Path) -> None:
    rng, path, log = random.Random(variant), tmp_path / "run", tmp_path / "log"
    assert run(arguments(variant, tmp_path / "whole"), log) == 0, log.read_text()
    log.unlink()
    hits = 0
    for session in range(3):
        command = [f"resume={path}"] if session else arguments(variant, path)
        process = start(command, log)
        wait_for(lambda: log.exists() and log.read_text().count("run: ") > session, process)
        time.sleep(rng.uniform(0.1, 0.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        hits += process.exitcode == -signal.SIGKILL
    assert run([f"resume={path}"], log) == 0, log.read_text()[-2000:]
    assert hits >= 1, "every session ended before it was killed: give it more steps"
    assert_same(contents(path), contents(tmp_path / "whole"))


def without_accuracy(run: dict) -> dict:
    """A Wasserstein critic's boundary lies between the mean scores of each process's own images."""
    lines = [json.loads(line) for line in run["metrics"].splitlines()]
    kept = [json.dumps({key: value for key, value in line.items() if "accuracy" not in key}) for line in lines]
    return run | {"metrics": "\n".join(kept).encode()}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """With penalties, classes and held-back batches; without batch norm, which sees its own process only."""
    log = tmp_path / "log"
    more = (*POINTS, "model.conditional=true", "model.loss=wasserstein", "model.gradient_penalty=10", "model.r1=0.1",
            "model.critic_steps=2", "trainer.accumulate=2", "trainer.max_steps=8")  # fmt: skip
    two = ("trainer.devices=2", "trainer.strategy=ddp_fork")
    assert run(overrides(*COMMON, *more, run=tmp_path / "one"), log) == 0, log.read_text()
    assert run(overrides(*COMMON, *more, *two, run=tmp_path / "two"), log) == 0, log.read_text()
    assert_close(*(without_accuracy(contents(tmp_path / name)) for name in ("one", "two")))


def test_the_generator_alone_is_averaged_and_draws_by_class(tmp_path: Path) -> None:
    main(overrides(*COMMON, *POINTS, "model.conditional=true", "trainer.max_steps=9", run=tmp_path))
    (path,) = (tmp_path / "checkpoints").glob("step=00000009.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    averaged = checkpoint["ema"]["params"]
    trained = [name for name in checkpoint["state_dict"] if name.startswith("generator.")]
    assert sorted(averaged) == sorted(trained) and checkpoint["ema"]["num_updates"] == 9
    module, _, info = load_module(path)
    assert info["weights"] == "ema" and info["step"] == 9
    assert torch.equal(module.state_dict()[trained[-1]], averaged[trained[-1]])
    assert module.sample(Request(2, labels=[7, 1]), seeds=[0, 1]).shape == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.loss=hing", "model.loss='hing': choose one of minimax"),
        ("model.critic_steps=0", "model.critic_steps=0"),
        ("model.gradient_penalty=10", "players.discriminator.norm=layer"),
    ],
)
def test_mistakes_end_in_one_line(override: str, complaint: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run(overrides("model=gan", "data=fashion_mnist", override, run=tmp_path / "run"), log) == 2
    assert complaint in log.read_text() and "Traceback" not in log.read_text() and not (tmp_path / "run").exists()
