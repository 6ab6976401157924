"""What a checkpoint holds, and what happens where it cannot be written: a warning on the way, an error at the end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from callbacks.checkpoint import Checkpoint
from runtime import checkpoint_io
from tests.sessions import assert_same, contents, run
from tests.toy import overrides
from train import main


def steps(path: Path) -> list[int]:
    return [int(p.stem.removeprefix("step=")) for p in sorted((path / "checkpoints").iterdir())]


def refuse(monkeypatch, *at: int) -> None:
    """The disk takes no checkpoint of these steps."""
    real = checkpoint_io.write

    def write(checkpoint: dict, path: Path) -> None:
        if checkpoint["counters"]["optimizer_steps"] in at:
            path.write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(checkpoint, path)

    monkeypatch.setattr(checkpoint_io, "write", write)


def test_a_checkpoint_that_cannot_be_written_on_the_way_is_a_warning(tmp_path, monkeypatch, capsys) -> None:
    refuse(monkeypatch, 8)
    assert main(overrides("callbacks.checkpoint.keep=9", run=tmp_path / "a"))["step"] == 20
    assert steps(tmp_path / "a") == [4, 12, 16, 20]
    (line,) = [l for l in capsys.readouterr().out.splitlines() if l.startswith("warning")]
    assert line.startswith(f"warning: no checkpoint at step 8: {tmp_path / 'a' / 'checkpoints'}: no space left on the disk")
    assert " needed, " in line and line.endswith(" free; training goes on")


@pytest.mark.parametrize("refused", [(20,), range(21)], ids=["last", "all"])
def test_the_last_checkpoint_that_cannot_be_written_is_an_error(refused, tmp_path, monkeypatch) -> None:
    main(overrides(run=tmp_path / "whole"))
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        refuse(patch, *refused)
        how = rf"no checkpoint at step 20: .*no space left on the disk: .*; free \d+ MB, then go on: python train.py resume={path}$"
        with pytest.raises(ValueError, match=how):
            main(overrides(run=path))
    assert steps(path) == ([12, 16] if refused == (20,) else []) and not list(path.rglob("*.tmp-*"))
    assert main([f"resume={path}"])["step"] == 20  # what the message says works
    assert_same(contents(path), contents(tmp_path / "whole"))


def test_a_signal_whose_checkpoint_cannot_be_written_does_not_say_saved(tmp_path, monkeypatch, capsys) -> None:
    import signal

    from tests import toy

    losses = toy.Toy.losses

    def stopped(self, batch):
        if self.batches_seen == 5:
            signal.raise_signal(signal.SIGTERM)
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", stopped)
    refuse(monkeypatch, 6)
    with pytest.raises(ValueError, match="no checkpoint at step 6: "):
        main(overrides(run=tmp_path))
    assert "saved" not in capsys.readouterr().out


def test_two_processes_end_alike_where_nothing_can_be_written(tmp_path: Path) -> None:
    """One process writes and the other one waits for it: neither hangs, and one error is said."""
    log = tmp_path / "log"
    more = ("trainer.devices=2", "trainer.strategy=ddp_fork", "trainer.max_steps=6", "callbacks.samples=null")
    settings = overrides(*more, "callbacks.checkpoint.dir=/dev/null/checkpoints", run=tmp_path / "run")
    assert run(settings, log) == 2, log.read_text()
    said = log.read_text()
    assert said.count("warning: no checkpoint at step 4: ") == 1 and "Traceback" not in said
    assert said.count("error: no checkpoint at step 6: ") == 1 and f"resume={tmp_path / 'run'}" in said


def test_checkpoints_hold_the_live_weights_beside_their_average(tmp_path) -> None:
    """Validation and grids at the same step swap the averaged weights in: a checkpoint must not see them."""
    often = [f"callbacks.{name}.every_steps=4" for name in ("validate", "samples")]
    never = [f"callbacks.{name}=null" for name in ("validate", "samples")]
    for name, more in (("often", often), ("never", never)):
        main(overrides(*more, "trainer.max_steps=8", run=tmp_path / name))
    a, b = (torch.load(tmp_path / n / "checkpoints/step=00000008.ckpt", weights_only=True) for n in ("often", "never"))
    assert_same(a["state_dict"], b["state_dict"])
    assert_same(a["ema"], b["ema"])
    assert not any(torch.equal(a["ema"]["params"][k], v) for k, v in a["state_dict"].items())


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="callbacks.checkpoint.keep=0: at least 1"):
        Checkpoint("x", keep=0)
