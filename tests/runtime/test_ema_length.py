"""A length of the average that is chosen after training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optimizers.power_ema import beta, gamma_of
from runtime.checkpoint import load_module
from runtime.ema_length import ema_length, main as command
from tests.callbacks.test_power_ema import KEEP
from tests.toy import overrides
from train import main

STEPS = 48


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    main(overrides(*KEEP, f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep=99", run=path))
    return path


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.15])
def test_it_is_the_average_that_would_have_been_kept(run: Path, tmp_path: Path, sigma_rel: float) -> None:
    expected = 0.0
    for step in range(1, STEPS + 1):
        b = beta(step, gamma_of(sigma_rel))
        weights = torch.load(run / f"checkpoints/step={step:08d}.ckpt")["state_dict"]["net.1.weight"].double()
        expected = b * expected + (1 - b) * weights
        first = weights if step == 1 else first
    out = ema_length(run, sigma_rel, tmp_path / "new.ckpt")
    module, _, info = load_module(out)
    error = (module.net[1].weight.double() - expected).norm() / (expected - first).norm()
    assert error < (2e-5 if sigma_rel in (0.05, 0.10) else 0.02), "relative to what training has changed"
    assert info["weights"] == f"power-function average, sigma_rel {sigma_rel:g}" and info["step"] == STEPS


def test_damage_is_left_out_and_wrong_requests_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = run / "power_ema/step=00000008.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    command([f"ckpt={run}", "sigma_rel=0.08", f"out={tmp_path / 'a.ckpt'}"])
    assert "step=00000008.pt is damaged and left out" in capsys.readouterr().out
    file.write_bytes(whole)
    for arguments, message in (
        ([f"ckpt={run}", "sigma_rel=0.08", f"out={tmp_path / 'a.ckpt'}"], "name of a new file"),
        ([f"ckpt={run}", "sigma_rel=0.5", f"out={tmp_path / 'b.ckpt'}"], "give a length between 0 and 0.2887"),
        ([f"ckpt={run}", "sigma_rel=long", f"out={tmp_path / 'b.ckpt'}"], "sigma_rel=long: give a number"),
        ([f"ckpt={run}"], "give ckpt=RUN"),
        (["ckpt=zoo/imagen-scenes/none", "sigma_rel=0.1", f"out={tmp_path / 'b.ckpt'}"], "no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            command(arguments)
