"""What a run puts into its checkpoints and asks of the data, and what a full disk does to the rest of it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import toy
from tests.sessions import assert_same, contents
from tests.toy import overrides
from train import main


def test_the_seed_of_the_run_reaches_data_and_noise(tmp_path: Path, monkeypatch) -> None:
    seen, losses = [], toy.Toy.losses

    def watched(self, batch):
        seen.append((self.run_seed, self.trainer.datamodule.run_seed, batch["seed"].tolist()))
        return losses(self, batch)

    monkeypatch.setattr(toy.Toy, "losses", watched)
    for seed in (3, 4):
        main(overrides("trainer.max_steps=1", "callbacks.validate=null", f"seed={seed}", run=tmp_path / str(seed)))
    (mine, datas, keys), (other, _, other_keys) = seen
    assert (mine, datas, other) == (3, 3, 4) and keys != other_keys


@pytest.mark.parametrize(
    ("name", "change"),
    [("fingerprint", lambda data: setattr(data, "n", 31)), ("images_per_step", lambda data: setattr(data, "batch_size", 4)),
     ("seed", None)],
)  # fmt: skip
def test_other_data_is_refused_or_listed(name: str, change, tmp_path: Path, monkeypatch, capsys) -> None:
    main(overrides("trainer.max_steps=2", "callbacks.checkpoint.every_steps=1", run=tmp_path))
    if change is None:  # a checkpoint of another run, put among this one's
        path = tmp_path / "checkpoints" / "step=00000002.ckpt"
        other = torch.load(path, weights_only=True)
        other["data"]["seed"] = 5
        torch.save(other, path)
    else:
        setup = toy.ToyData.setup
        monkeypatch.setattr(toy.ToyData, "setup", lambda self, stage=None: (change(self), setup(self, stage))[1])
    more = [f"resume={tmp_path}", "trainer.max_steps=3"]
    with pytest.raises(ValueError, match=f"the run was trained with {name} .*, and now it is .*resume_force=true"):
        main(more)
    assert main([*more, "resume_force=true"])["step"] == 3
    assert f"changed: {name} " in capsys.readouterr().out


class NoRoom:
    """A disk that takes nothing but checkpoints, while `full`."""

    def __init__(self, monkeypatch) -> None:
        self.full = True
        monkeypatch.setattr("os.pwrite", self.with_room(os.pwrite))
        monkeypatch.setattr("PIL.Image.Image.save", self.with_room(Image.Image.save))

    def with_room(self, real):
        def write(*args, **kwargs):
            if self.full:
                raise OSError(errno.ENOSPC, "full")
            return real(*args, **kwargs)

        return write


def test_a_full_disk_during_the_run_costs_pictures_and_nothing_else(tmp_path: Path, monkeypatch, capsys) -> None:
    main(overrides(run=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        disk = NoRoom(patch)
        losses = toy.Toy.losses

        def room_again(self, batch):
            disk.full = self.batches_seen < 17
            return losses(self, batch)

        patch.setattr(toy.Toy, "losses", room_again)
        main(overrides(run=tmp_path / "run"))
    said = capsys.readouterr().out
    assert "warning: no step=00000007.png: " in said and "warning: metrics.jsonl waits in memory" in said
    mine, whole = contents(tmp_path / "run"), contents(tmp_path / "whole")
    assert list(mine.pop("pictures")) == ["step=00000020.png"] and whole.pop("pictures")
    assert_same(mine, whole)


def test_metrics_that_the_disk_never_took_are_an_error_and_come_back(tmp_path: Path, monkeypatch, capsys) -> None:
    main(overrides(run=tmp_path / "whole"))
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        NoRoom(patch)
        with pytest.raises(ValueError, match="not all metrics of this run could be written: .*no space left.*; the last "
                                             f"checkpoint has them: make room, then go on with: .* resume={path}$"):  # fmt: skip
            main(overrides(run=path))
        assert (path / "metrics.jsonl").read_bytes() == b""
        with pytest.raises(ValueError, match="not all metrics of this run"):
            main([f"resume={path}"])  # still no room
    assert main([f"resume={path}"])["step"] == 20
    assert (path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert all(json.loads(line) for line in (path / "timing.jsonl").read_text().splitlines())


def test_a_run_stopped_on_a_full_disk_goes_on_without_a_gap(tmp_path: Path, monkeypatch) -> None:
    main(overrides(run=tmp_path / "whole"))
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        NoRoom(patch)
        with pytest.raises(ValueError):
            main(overrides("callbacks.checkpoint.keep=9", run=path))
    for step in (16, 20):  # as if it had been killed after step 12
        (path / "checkpoints" / f"step={step:08d}.ckpt").unlink()
    assert main([f"resume={path}"])["step"] == 20
    assert (path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
