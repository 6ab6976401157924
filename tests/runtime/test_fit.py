"""What a run is given, what it puts into its checkpoints and refuses, and what a full disk does to the rest of it."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.strategies import DDPStrategy

from runtime import checkpoint_io
from runtime import fit as fit_file
from runtime.fit import RunState, allow_several_optimizers, check_batch_size, total_steps
from tests import toy
from tests.sessions import assert_same, contents
from tests.toy import ToyData, overrides
from train import main

# ---- before it starts ----


class Started(Exception):
    """The trainer was about to train."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What Trainer.fit was called with; it trains nothing."""
    calls: list[SimpleNamespace] = []

    def fit(trainer: pl.Trainer, module: Any, datamodule: Any = None, ckpt_path: Any = None, **_: Any) -> None:
        calls.append(SimpleNamespace(trainer=trainer, module=module, data=datamodule, ckpt_path=ckpt_path))
        raise Started

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    return calls


def start(*more: str, run: Path) -> None:
    with pytest.raises(Started):
        main(overrides(*more, run=run))


def test_module_and_data_are_given_the_runs_seed_and_length(started, tmp_path: Path) -> None:
    start("seed=7", "trainer.accumulate=2", "trainer.max_steps=5", run=tmp_path / "a")
    (call,) = started
    assert call.module.run_seed == call.data.run_seed == 7
    assert call.data.num_batches == 10 and call.data.start_batch == 0 and call.ckpt_path is None
    sampler = (call.data.setup(), call.data.train_dataloader())[1].batch_sampler
    assert (sampler.seed, sampler.start, len(sampler)) == (7, 0, 10)


def test_initial_weights_are_those_of_the_seed_whatever_ran_before(started, tmp_path: Path) -> None:
    for number, (seed, before) in enumerate(((7, 1), (7, 2), (8, 1))):
        torch.manual_seed(before)
        start(f"seed={seed}", run=tmp_path / str(number))
    one, same, other = (torch.nn.utils.parameters_to_vector(call.module.parameters()) for call in started)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_resumed_run_begins_at_the_batch_after_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(overrides("trainer.accumulate=2", "trainer.max_steps=3", "seed=5", run=tmp_path))
    begun: list[Any] = []
    monkeypatch.setattr(pl.Trainer, "fit", lambda trainer, module, datamodule, ckpt_path, **_: begun.append(
        (datamodule.start_batch, datamodule.num_batches, datamodule.run_seed, module.run_seed, Path(ckpt_path).name)
    ) or (_ for _ in ()).throw(Started()))  # fmt: skip
    with pytest.raises(Started):
        main([f"resume={tmp_path}", "trainer.max_steps=5"])
    assert begun == [(6, 10, 5, 5, "step=00000003.ckpt")]


def test_a_checkpoint_holds_what_a_run_is_rebuilt_from(tmp_path: Path) -> None:
    main(overrides("trainer.accumulate=2", "trainer.max_steps=2", "seed=9", run=tmp_path))
    ckpt = torch.load(tmp_path / "checkpoints" / "step=00000002.ckpt", weights_only=True)
    assert ckpt["data"] == {"fingerprint": "toy-30", "images_per_step": 16, "seed": 9}
    assert ckpt["train_sec"] > 0 and set(ckpt["versions"]) == {"python", "torch", "pytorch_lightning"}
    assert "${" not in str(ckpt["config"]) and "${" in str(ckpt["config_source"])
    resolved = OmegaConf.to_container(OmegaConf.create(ckpt["config_source"]), resolve=True)
    assert resolved == ckpt["config"] and ckpt["counters"]["batches_seen"] == 4 and "loops" not in ckpt


def state(checkpoint: dict | None, accumulate: int = 1) -> tuple[RunState, SimpleNamespace]:
    cfg = OmegaConf.create({"seed": 1, "resume_force": False, "trainer": {"accumulate": accumulate}, "run_dir": "x"})
    trainer = SimpleNamespace(
        datamodule=ToyData(batch_size=8), accumulate_grad_batches=1, is_global_zero=True, world_size=1, callbacks=[]
    )
    return RunState(cfg, checkpoint, SimpleNamespace()), trainer


def test_a_module_that_steps_its_optimisers_itself_accumulates_all_the_same() -> None:
    callback, trainer = state({"data": {"fingerprint": "toy-30", "images_per_step": 16, "seed": 1}}, accumulate=2)
    callback.setup(trainer, None, "fit")
    assert trainer.accumulate_grad_batches == 2


def test_two_players_may_leave_each_others_weights_without_gradient() -> None:
    trainer: Any = SimpleNamespace(accumulate_grad_batches=4, strategy=DDPStrategy())
    allow_several_optimizers(trainer)
    assert trainer.accumulate_grad_batches == 1
    assert trainer.strategy._ddp_kwargs["find_unused_parameters"] is True


def test_processes_share_a_batch_equally() -> None:
    trainer: Any = SimpleNamespace(world_size=3)
    check_batch_size(trainer, SimpleNamespace(batch_size=9))
    with pytest.raises(ValueError, match="^data.batch_size=8 is the batch over all processes.*multiple of the 3"):
        check_batch_size(trainer, SimpleNamespace(batch_size=8))


def test_steps_of_a_run_that_time_ends_are_not_limited() -> None:
    def of(**trainer: Any) -> int:
        return total_steps(OmegaConf.create({"trainer": {"max_steps": 5, "accumulate": 1, "max_time": None} | trainer}))

    assert of() == 5 and of(max_steps=None, max_time="00:01:00:00") == fit_file.UNLIMITED_STEPS
    with pytest.raises(ValueError, match="both null: the run would never end"):
        of(max_steps=None)
    with pytest.raises(ValueError, match="trainer.max_steps=0: a whole number of at least 1"):
        of(max_steps=0)


# ---- in a run ----


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


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_before_the_first_step_ends_as_later(begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning answers it with exit code 1 while it still sets up."""
    path = tmp_path / "run"
    if begun:
        main(overrides("trainer.max_steps=2", run=path))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ToyData, "train_dataloader", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit:
        main([f"resume={path}", "trainer.max_steps=4"] if begun else overrides(run=path))
    assert exit.value.code == 130 and signal.getsignal(signal.SIGINT) == handler
    assert path.exists() == begun, "a run without a step leaves nothing"


def test_a_run_leaves_ctrl_c_as_it_found_it(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    main(overrides("trainer.max_steps=2", run=tmp_path / "run"))
    assert signal.getsignal(signal.SIGINT) == before


def test_once_a_stopped_run_is_saved_ctrl_c_disturbs_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    losses, check = toy.Toy.losses, fit_file.check_end

    def stopped(self: Any, batch: Any) -> Any:
        if self.batches_seen == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, batch)

    def disturbed(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        check(*arguments)

    monkeypatch.setattr(toy.Toy, "losses", stopped)
    monkeypatch.setattr(fit_file, "check_end", disturbed)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit:
        main(overrides(run=tmp_path / "run"))
    assert exit.value.code == 130 and signal.getsignal(signal.SIGINT) == before
    assert "stopped by SIGINT at step 6, saved; go on with" in capsys.readouterr().out


def test_a_second_ctrl_c_during_the_last_save_is_no_failure_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised inside torch.save comes out of it as another error."""
    losses, write = toy.Toy.losses, checkpoint_io._Watched.write
    pressed, written = [], []

    def interrupted_losses(self: Any, batch: Any) -> Any:
        if self.batches_seen == 9:
            pressed.append("during a step")
            os.kill(os.getpid(), signal.SIGINT)
        return losses(self, batch)

    def interrupted_write(self: Any, data: Any) -> int:
        written.extend(pressed)
        if len(written) == 9:  # in the middle of the file
            pressed.append("during the save")
            os.kill(os.getpid(), signal.SIGINT)
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Toy, "losses", interrupted_losses)
        patch.setattr(checkpoint_io._Watched, "write", interrupted_write)
        with pytest.raises(SystemExit) as exit:
            main(overrides(run=tmp_path / "run"))
    assert exit.value.code == 130 and pressed == ["during a step", "during the save"]
    assert main([f"resume={tmp_path / 'run'}"])["step"] == 20


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


@pytest.mark.parametrize("tail", [b"7\n", b"\0" * 99, b'{"step": 21, "images'])
def test_what_a_power_cut_left_behind_the_metrics_of_a_finished_run_goes(tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run"
    main(overrides(run=path))
    whole = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(whole + tail)
    main([f"resume={path}"])
    assert (path / "metrics.jsonl").read_bytes() == whole


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
