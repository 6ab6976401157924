"""What each player of a GAN is shown and leaves behind: images, gradients, random numbers, counters, averages."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from callbacks.ema import EMA
from contracts import Request
from lightning_modules.gan import GAN
from networks.gan import MLPDiscriminator
from objectives.adversarial import LOSSES
from objectives.diff_augment import augment
from tests.lightning_modules.test_gan import convolutional, make, make_batches, train


# ---- gradients ----


def test_a_turn_leaves_gradients_on_its_own_player_alone() -> None:
    (batch,) = make_batches(1)
    start, module = make(), make()
    value, _ = start.discriminator_losses(batch)
    value.backward()
    assert all(p.grad is None for p in start.generator.parameters())
    train(module, [batch])  # D's turn, then G's: D's gradients are still those of its own turn
    for (name, p), q in zip(module.discriminator.named_parameters(), start.discriminator.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")
    assert all(p.grad.any() for p in module.generator.parameters())


def test_processes_join_their_gradients_once_a_step_at_its_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def block_backward_sync(strategy: Any) -> Any:
        seen.append("alone")
        yield
        seen.pop()
        seen.append("kept apart")

    backward = GAN.manual_backward

    def manual_backward(module: GAN, loss: Tensor) -> None:
        if seen[-1:] != ["alone"]:
            seen.append("joined")
        backward(module, loss)

    monkeypatch.setattr(SingleDeviceStrategy, "block_backward_sync", block_backward_sync, raising=False)
    monkeypatch.setattr(GAN, "manual_backward", manual_backward)
    train(make(), make_batches(3), accumulate=3)
    assert seen == ["kept apart", "kept apart", "joined"] * 2


# ---- images ----


@pytest.mark.parametrize("conditional", [False, True])
def test_the_gradient_penalty_is_between_images_as_the_discriminator_sees_them(conditional: bool) -> None:
    module = make(augment=["color", "cutout"], gradient_penalty=3.0, loss="wasserstein", conditional=conditional)
    (batch,) = make_batches(1)
    label, (z, u_real, u_fake, u) = module.label(batch), module.noise(batch["seed"], "discriminator")
    real = augment(batch["image"], module.policy, u_real)
    fake = augment(module.generator(z, label).detach(), module.policy, u_fake)
    share = u[:, None, None, None]
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(module.discriminator(between, label).sum(), between)
    expected = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    value, logged = module.discriminator_losses(batch)
    torch.testing.assert_close(logged["gradient_penalty"], expected)
    torch.testing.assert_close(value, logged["d_loss"] + 3 * expected)


def test_batch_norm_never_sees_real_and_generated_images_together() -> None:
    module, (batch,) = convolutional(), make_batches(1)
    assert module.discriminator.batch_norm and module.training
    z, *_ = module.noise(batch["seed"], "discriminator")
    alike = copy.deepcopy(module)
    fake = alike.generator(z).detach()
    scores = [alike.discriminator(image) for image in (batch["image"], fake)]
    together = alike.discriminator(torch.cat([batch["image"], fake])).chunk(2)
    assert not torch.allclose(scores[0].mean(), together[0].mean(), atol=1e-4), "or this test tells nothing"
    value, logged = module.discriminator_losses(batch)
    torch.testing.assert_close(value, LOSSES["non_saturating"].discriminator(*scores))
    torch.testing.assert_close(logged["score_real"], scores[0].mean())
    torch.testing.assert_close(logged["score_fake"], scores[1].mean())


def test_a_relativistic_generator_is_compared_with_data_augmented_by_their_own_numbers() -> None:
    module, (batch,) = make(loss="relativistic", augment=["color", "translation", "cutout"]), make_batches(1)
    z, u_real, u_fake, _ = module.noise(batch["seed"], "generator")
    real = module.discriminator(augment(batch["image"], module.policy, u_real))
    fake = module.discriminator(augment(module.generator(z), module.policy, u_fake))
    torch.testing.assert_close(module.generator_losses(batch)[0], LOSSES["relativistic"].generator(fake, real))


@pytest.mark.parametrize("training", [False, True])
def test_drawing_leaves_the_generator_in_the_mode_it_was_in(training: bool) -> None:
    module = convolutional().train(training)
    module.sample(Request(2), seeds=[0, 1])
    assert module.generator.training is training and module.discriminator.training is training


# ---- random numbers, counters, averages ----


class Dropping(MLPDiscriminator):
    """Draws from the global random state, as dropout does, and remembers what."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.drawn: list[float] = []

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        self.drawn.append(float(torch.rand(())))
        return super().forward(image, label)


def test_dropout_is_a_function_of_run_rank_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(run_seed: int, rank: int, global_seed: int) -> list[float]:
        monkeypatch.setattr(GAN, "global_rank", rank)
        module = make(discriminator=partial(Dropping, hidden=[8]))
        module.run_seed = run_seed
        torch.manual_seed(global_seed)
        return train(module, make_batches(2)).discriminator.drawn

    first = drawn(0, 0, 1)
    assert drawn(0, 0, 2) == first and len(set(first)) == len(first) == 4, "two players, two batches"
    assert not set(drawn(0, 1, 1)) & set(first) and not set(drawn(1, 0, 1)) & set(first)


def test_images_of_all_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GAN, "world_size", 3)
    module = train(make(critic_steps=2), make_batches(5))
    assert (module.batches_seen, module.optimizer_steps, module.images_seen) == (5, 5, 5 * 6 * 3)


def test_the_generator_is_averaged_and_the_discriminator_is_not() -> None:
    module = convolutional()
    ema = EMA(decay=0.5)
    ema.on_train_start(SimpleNamespace(accumulate_grad_batches=1, datamodule=SimpleNamespace(batch_size=6)), module)
    norms = [f"{name}.{part}" for name, net in module.generator.named_modules() if isinstance(net, nn.BatchNorm2d)
             for part in ("running_mean", "running_var")]  # fmt: skip
    weights = [name for name, _ in module.generator.named_parameters()]
    assert set(ema.params) == {f"generator.{name}" for name in (*weights, *norms)} and norms
