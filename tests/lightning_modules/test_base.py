"""Counters, learning rate, clipping per group and keyed global randomness."""

from __future__ import annotations

import random
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_modules.base import GenerativeModule, seed_everything
from runtime.build import instantiate
from runtime.config import CONF, compose


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


def test_learning_rate_is_a_function_of_the_step_and_of_the_time_used() -> None:
    module = Two(lr_schedule=lambda step, time_share: (1 - time_share) / (step + 1))
    optimizer = module.configure_optimizers()
    for step, time_share in ((4, 0.0), (0, 0.0), (1, 0.75)):
        module.optimizer_steps, module.time_share = step, time_share
        module.set_learning_rate(optimizer)
        assert optimizer.param_groups[0]["lr"] == 0.5 * (1 - time_share) / (step + 1)


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


class Many(Two):
    """Two parameters a group, one of them frozen, and a scalar that is not minimised."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.c = nn.Linear(2, 1)
        self.c.bias.requires_grad_(False)

    def losses(self, batch):
        return super().losses(batch) | {"beside": torch.tensor(100.0)}

    def clip_groups(self):
        return GenerativeModule.clip_groups(self)


def test_only_the_loss_is_minimised_and_validation_reports_all() -> None:
    module, batch = Many(), {"image": torch.ones(4, 2)}
    assert module.training_step(batch, 0) < 50
    assert set(module.last_losses) == set(module.validation_step(batch, 0)) == {"loss", "beside"}
    assert module.batches_seen == 1, "validation is not counted"


def test_random_numbers_differ_between_ranks_and_images_are_counted_over_all() -> None:
    losses = []
    for rank in (0, 1):
        module = Many()
        for p in module.parameters():
            p.data.zero_()
        module._trainer = SimpleNamespace(world_size=4, global_rank=rank)
        losses.append(module.training_step({"image": torch.ones(3, 2)}, 0).item())
        assert (module.batches_seen, module.images_seen) == (1, 12)
    assert losses[0] != losses[1]


def test_frozen_weights_are_neither_optimised_nor_clipped() -> None:
    module = Many()
    trainable = [module.a.weight, module.b.weight, module.c.weight]
    assert [id(p) for p in module.param_groups()] == [id(p) for p in trainable]
    assert {k: [id(p) for p in v] for k, v in module.clip_groups().items()} == {"model": [id(p) for p in trainable]}


def test_the_norm_of_a_group_is_that_of_all_its_gradients() -> None:
    module = Many(clip_norm=0.5)
    module.a.weight.grad, module.b.weight.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    module.configure_gradient_clipping(None)
    assert module.last_grad_norms["model"] == 5
    assert torch.allclose(module.a.weight.grad, torch.tensor([[0.3, 0.0]]), atol=1e-5)
    module.a.weight.grad = module.b.weight.grad = None
    module.configure_gradient_clipping(None)
    assert module.last_grad_norms == {}


class Groups(Two):
    def param_groups(self):
        return [{"params": [self.a.weight], "lr": 0.1}, {"params": [self.b.weight]}]


def test_each_group_keeps_its_own_rate_which_is_set_before_the_step() -> None:
    module = Groups(lr_schedule=lambda step, time_share: 2.0 ** -step)
    optimizer = module.configure_optimizers()
    module.batches_seen = 5  # gradients of several batches may make one step
    for step in range(3):
        before = module.a.weight.detach().clone(), module.b.weight.detach().clone()
        module.a.weight.grad, module.b.weight.grad = torch.ones(1, 2), torch.ones(1, 2)
        module.optimizer_step(0, 0, optimizer, lambda: None)
        assert torch.allclose(before[0] - module.a.weight, torch.full((1, 2), 0.1 / 2**step))
        assert torch.allclose(before[1] - module.b.weight, torch.full((1, 2), 0.5 / 2**step))
        assert module.optimizer_steps == step + 1


def test_a_schedule_that_is_no_function_is_refused() -> None:
    with pytest.raises(ValueError, match="model.lr_schedule='linear': give null or a schedule"):
        Two(lr_schedule="linear")
    assert Two().configure_optimizers().param_groups[0]["lr"] == 0.5


def test_seeding_tells_keys_apart() -> None:
    seen = set()
    for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        seed_everything(*key)
        seen.add((random.random(), torch.rand(()).item()))
    assert len(seen) == len({a for a, _ in seen}) == len({b for _, b in seen}) == 4


def test_images_become_floats_on_the_device_and_seeds_stay() -> None:
    batch = {"image": torch.tensor([[0, 255]], dtype=torch.uint8), "seed": torch.tensor([7]), "label": torch.tensor([1]), "caption": ["a"]}
    moved = Two().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["image"].dtype == torch.float32 and {moved[name].device.type for name in ("image", "label")} == {"meta"}
    assert moved["seed"] is batch["seed"] and batch["image"].dtype == torch.uint8
    here = Two().transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert here["image"].tolist() == [[-1.0, 1.0]] and here["caption"] == ["a"]
    assert torch.equal(Two().transfer_batch_to_device(here, torch.device("cpu"), 0)["image"], here["image"])
    assert Two().transfer_batch_to_device(torch.ones(2), torch.device("meta"), 0).device.type == "meta"


FAMILIES = ("ddpm", "edm", "flow", "vae", "autoencoder", "classifier", "gan", "clip", "glide", "dalle2", "imagen")
SAME_CODE = ("latent_diffusion", "imagen_paper", "glide_paper", "dalle2_paper")  # a diffusion over a trained model, and other sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_training_step_reads_nothing_back_from_the_device(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" has no values: whatever would make a GPU wait for the processor raises there."""
    cfg = compose("train", [f"model={family}", "data.batch_size=4", f"paths.cache={tmp_path}"])
    data, module = instantiate(cfg.data), instantiate(cfg.model).train()
    data.setup()
    batch = next(iter(data.train_dataloader()))
    module.losses(batch)  # what is done once, such as loading a frozen CLIP, looking at the first pixels, or reading new captions
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no meta
    module = module.to("meta")
    losses = module.losses(module.transfer_batch_to_device(batch, torch.device("meta"), 0))
    assert {value.device.type for value in losses.values()} == {"meta"}
    losses.get("loss", next(iter(losses.values()))).backward()


def test_every_family_is_among_them() -> None:
    assert sorted(FAMILIES + SAME_CODE) == sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
