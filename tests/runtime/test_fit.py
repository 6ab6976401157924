"""What a run is given before it starts, what its checkpoints hold, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from runtime import fit as fit_file
from runtime.fit import RunState, allow_several_optimizers, check_batch_size, total_steps
from tests.toy import ToyData, overrides
from train import main


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


def state(checkpoint: dict | None, force: bool = False, accumulate: int = 1) -> tuple[RunState, SimpleNamespace]:
    cfg = OmegaConf.create({"seed": 1, "resume_force": force, "trainer": {"accumulate": accumulate}, "run_dir": "x"})
    trainer = SimpleNamespace(
        datamodule=ToyData(batch_size=8), accumulate_grad_batches=1, is_global_zero=True, world_size=1, callbacks=[]
    )
    return RunState(cfg, checkpoint, SimpleNamespace()), trainer


@pytest.mark.parametrize("name", ["fingerprint", "images_per_step", "seed"])
def test_a_run_does_not_go_on_with_other_data(name: str) -> None:
    same = {"fingerprint": "toy-30", "images_per_step": 16, "seed": 1}
    for force in (False, True):
        callback, trainer = state({"data": same}, force, accumulate=2)
        callback.setup(trainer, None, "fit")
        assert trainer.accumulate_grad_batches == 2, "also where a module steps its optimisers itself"
    callback, trainer = state({"data": same | {name: "other"}}, accumulate=2)
    with pytest.raises(ValueError, match=f"^the run was trained with {name} other, and now it is .*resume_force=true$"):
        callback.setup(trainer, None, "fit")
    callback, trainer = state({"data": same | {name: "other"}}, force=True, accumulate=2)
    callback.setup(trainer, None, "fit")


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
