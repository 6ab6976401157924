"""Counters, learning rate, clipping per group and keyed global randomness."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from torch import nn

from lightning_modules.base import GenerativeModule, seed_everything


class Two(GenerativeModule):
    def __init__(self, **kwargs) -> None:
        super().__init__(optimizer=partial(torch.optim.SGD, lr=0.5), **kwargs)
        self.a, self.b = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)

    def losses(self, batch):
        return {"loss": self.a(batch["image"]).mean() + torch.rand(())}

    def clip_groups(self):
        return {"a": list(self.a.parameters()), "b": list(self.b.parameters())}


def test_each_group_is_clipped_by_itself() -> None:
    module = Two(clip_norm=1.0)
    module.a.weight.grad, module.b.weight.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.3, 0.4]])
    module.configure_gradient_clipping(None)
    assert torch.allclose(module.a.weight.grad, torch.tensor([[0.6, 0.8]]))
    assert torch.equal(module.b.weight.grad, torch.tensor([[0.3, 0.4]]))
    assert {k: round(v.item(), 4) for k, v in module.last_grad_norms.items()} == {"a": 5.0, "b": 0.5}


def test_no_clipping_still_measures() -> None:
    module = Two(clip_norm=None)
    module.a.weight.grad = torch.tensor([[3.0, 4.0]])
    module.configure_gradient_clipping(None)
    assert module.last_grad_norms["a"] == 5 and module.a.weight.grad.norm() == 5


def test_learning_rate_is_a_function_of_the_step() -> None:
    module = Two(lr_schedule=lambda step: 1 / (step + 1))
    optimizer = module.configure_optimizers()
    for step in (4, 0):
        module.optimizer_steps = step
        module.set_learning_rate(optimizer)
        assert optimizer.param_groups[0]["lr"] == 0.5 / (step + 1)


def test_training_step_counts_and_seeds_by_run_rank_and_batch() -> None:
    module, batch = Two(), {"image": torch.ones(4, 2)}
    first, second = module.training_step(batch, 0), module.training_step(batch, 1)
    assert (module.batches_seen, module.images_seen, module.optimizer_steps) == (2, 8, 0)
    torch.rand(7)  # what happens between two batches does not matter
    module.batches_seen = 0
    assert torch.equal(module.training_step(batch, 0), first) and not torch.equal(first, second)
    module.batches_seen, module.run_seed = 0, 1
    assert not torch.equal(module.training_step(batch, 0), first)
    assert not module.last_losses["loss"].requires_grad


def test_counters_travel_in_checkpoints() -> None:
    a, b, ckpt = Two(), Two(), {}
    a.batches_seen, a.optimizer_steps, a.images_seen = 6, 3, 48
    a.on_save_checkpoint(ckpt)
    b.on_load_checkpoint(ckpt)
    assert (b.batches_seen, b.optimizer_steps, b.images_seen) == (6, 3, 48)


@pytest.mark.parametrize("key", [(0, 0, 0), (1, 2, 3)])
def test_seeding_covers_python_and_torch(key: tuple[int, ...]) -> None:
    seed_everything(*key)
    first = random.random(), torch.rand(()).item()
    seed_everything(*key)
    assert first == (random.random(), torch.rand(()).item())
