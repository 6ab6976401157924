"""Bad gradients change nothing, are counted, and end a run that has nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from callbacks.nan_guard import NanGuard
from tests.processes import in_two
from tests.toy import overrides
from train import main


# ---- step by step ----


def player(*grads: float | None) -> torch.optim.Optimizer:
    """An optimiser with one group for each gradient."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in grads]
    for p, grad in zip(params, grads):
        p.grad = None if grad is None else torch.full((2,), grad)
    return torch.optim.SGD([{"params": [p]} for p in params], lr=0.1)


def guarded(guard: NanGuard, *players: torch.optim.Optimizer) -> list[bool]:
    """Which of the players' steps go through."""
    trainer = SimpleNamespace(optimizers=list(players))
    for optimizer in players:
        guard.on_before_optimizer_step(trainer, SimpleNamespace(optimizer_steps=0), optimizer)
    return [any(p.grad is not None for g in o.param_groups for p in g["params"]) for o in players]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_one_bad_number_anywhere_drops_all_gradients_of_the_step(bad: float) -> None:
    for grads in ((bad, 1.0), (1.0, bad), (None, bad, 1.0)):
        optimizer = player(*grads)
        assert guarded(NanGuard(), optimizer) == [False]
    assert guarded(NanGuard(), player(1.0, None, -3.0)) == [True]


def of_sharded_weights() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, guard = init_device_mesh("cpu", (2,)), NanGuard()
    for bad in (False, True):
        grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        if bad and dist.get_rank() == 1:
            grad.to_local()[0] = NAN
        p = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
        p.grad = grad
        assert guarded(guard, torch.optim.SGD([p], lr=0.1)) == [not bad]
    assert guard.total == 1


def test_a_bad_number_in_one_processs_part_drops_the_step_of_all(tmp_path: Path) -> None:
    in_two(of_sharded_weights, tmp_path)


def test_a_good_step_starts_the_count_anew() -> None:
    guard = NanGuard(max_in_a_row=2)
    for _ in range(3):
        for grad in (NAN, NAN, 1.0):
            guarded(guard, player(grad))
    assert guard.total == 6
    guarded(guard, player(NAN)), guarded(guard, player(NAN))
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        guarded(guard, player(NAN))


def test_each_player_has_a_count_of_its_own() -> None:
    guard = NanGuard(max_in_a_row=2)
    for _ in range(4):  # they fail in turns, so that neither fails twice in a row
        assert guarded(guard, player(NAN), player(1.0)) == [False, True]
        assert guarded(guard, player(1.0), player(NAN)) == [True, False]
    guarded(guard, player(1.0), player(1.0))
    for _ in range(2):
        assert guarded(guard, player(NAN), player(NAN)) == [False, False]
    assert guard.in_a_row == {0: 2, 1: 2} and guard.total == 12


def test_counts_go_on_after_a_resume() -> None:
    guard, other = NanGuard(max_in_a_row=2), NanGuard(max_in_a_row=2)
    guarded(guard, player(NAN)), guarded(guard, player(NAN))
    other.load_state_dict(guard.state_dict())
    assert other.total == 2
    with pytest.raises(FloatingPointError, match="3 steps in a row"):
        guarded(other, player(NAN))


# ---- in a run ----


def test_bad_steps_are_skipped_and_counted(tmp_path, capsys) -> None:
    metrics = main(overrides("model.nan_at=[2,5]", "trainer.max_steps=9", run=tmp_path))
    ckpt = torch.load(tmp_path / "checkpoints/step=00000009.ckpt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in ckpt["state_dict"].values())
    assert all(torch.isfinite(v).all() for v in ckpt["ema"]["params"].values())
    assert ckpt["optimizer_states"][0]["state"][0]["step"] == 7  # of 9
    assert metrics["train/skipped_steps"] == 2
    assert "step 3: gradient not finite, step skipped (1 so far)" in capsys.readouterr().out


def test_many_in_a_row_end_the_run(tmp_path) -> None:
    with pytest.raises(FloatingPointError, match="not finite 3 steps in a row, up to step 7"):
        main(overrides("model.nan_at=[4,5,6,7]", "callbacks.nan_guard.max_in_a_row=2", run=tmp_path))
    assert (tmp_path / "checkpoints/step=00000004.ckpt").exists()


def test_a_good_step_between_starts_the_count_again(tmp_path) -> None:
    more = ("model.nan_at=[1,2,4,5,7,8]", "callbacks.nan_guard.max_in_a_row=2", "trainer.max_steps=10")
    assert main(overrides(*more, run=tmp_path))["train/skipped_steps"] == 6


def test_the_count_survives_a_resume(tmp_path) -> None:
    main(overrides("model.nan_at=[2,3]", "callbacks.nan_guard.max_in_a_row=2", "trainer.max_steps=4", run=tmp_path))
    with pytest.raises(FloatingPointError, match="not finite 3 steps in a row, up to step 5"):
        main([f"resume={tmp_path}", "trainer.max_steps=6", "model.nan_at=[4]", "resume_force=true"])


def test_nothing_is_saved_while_gradients_are_not_finite(tmp_path) -> None:
    more = ("model.nan_at=[3,4]", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep=9")
    main(overrides(*more, "trainer.max_steps=8", run=tmp_path))
    steps = [int(p.stem.removeprefix("step=")) for p in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == [2, 6, 8]  # what was due at step 4 waited for a good step


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("model.nan_at=[5]", "callbacks.nan_guard=null"), "no checkpoint at step 8: state_dict.net.1.weight is not "
         "finite; .*the last good checkpoint is step=00000004.ckpt, go back to it with python train.py resume="),
        (("model.optimizer.lr=1e30",), "not finite 11 steps in a row.*; there is no good checkpoint, start a new run"),
    ],
)  # fmt: skip
def test_weights_that_are_lost_are_never_saved_as_good(tmp_path, more: tuple, line: str) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=line) as error:
        main(overrides("callbacks.samples=null", *more, run=tmp_path))
    assert "\n" not in str(error.value)
    left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert left == (["step=00000004.ckpt"] if "nan_at" in more[0] else [])
    if left:  # without the fault the run goes on from the good one
        assert main([f"resume={tmp_path}", "model.nan_at=[]", "resume_force=true"])["step"] == 20
