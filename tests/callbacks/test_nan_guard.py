"""Bad gradients change nothing, are counted, and end a run that has nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from callbacks.nan_guard import NanGuard
from tests.toy import overrides
from train import main


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


def test_without_the_guard_the_weights_are_lost(tmp_path) -> None:
    more = ("model.nan_at=[2]", "callbacks.nan_guard=null", "callbacks.samples=null", "trainer.max_steps=4")
    main(overrides(*more, run=tmp_path))
    ckpt = torch.load(tmp_path / "checkpoints/step=00000004.ckpt", weights_only=True)
    assert not all(torch.isfinite(v).all() for v in ckpt["state_dict"].values())


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
