"""GANs against a plain loop that does the same by hand, and what each player may and may not touch."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from contracts import Request
from lightning_modules.gan import GAN, frozen
from networks import compiling
from networks.gan import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from objectives.adversarial import LOSSES
from objectives.diff_augment import NUM_UNIFORM, augment

LR, DIM, SIZE = 0.3, 3, 4


def make(**settings: Any) -> GAN:
    """A small GAN of fully connected layers, trained by gradient descent."""
    torch.manual_seed(0)
    settings = {
        "generator": partial(MLPGenerator, hidden=[8]),
        "discriminator": partial(MLPDiscriminator, hidden=[8]),
        "optimizer": partial(torch.optim.SGD, lr=LR),
        "clip_norm": None,
        **settings,
    }
    return GAN(image_size=SIZE, channels=2, latent_dim=DIM, num_classes=3, **settings)


def make_batches(count: int, size: int = 6) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(1)
    batches = []
    for i in range(count):
        image = torch.rand(size, 2, SIZE, SIZE, generator=random) * 2 - 1
        label, seed = torch.arange(size) % 3, torch.arange(size) + size * i
        batches.append({"image": image, "label": label, "seed": seed})
    return batches


def train(module: GAN, batches: list[dict[str, Any]], accumulate: int = 1, **settings: Any) -> GAN:
    """Lightning over the batches, without any of the repository's own callbacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[Accumulate(accumulate)], **settings,
        )  # fmt: skip
        trainer.fit(module, DataLoader(batches, batch_size=None))
    return module


class Accumulate(pl.Callback):
    """What runtime.fit does: Lightning itself refuses the number under manual optimisation."""

    def __init__(self, count: int) -> None:
        self.count = count

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        trainer.accumulate_grad_batches = self.count


def assert_same_weights(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


# ---- the turns ----


def by_hand(module: GAN, batches: list[dict[str, Any]], loss: str, r1: float, every: int, critic_steps: int) -> None:
    """The same training as a plain loop: gradients by autograd.grad, steps of plain gradient descent."""
    game, label_of = LOSSES[loss], module.label

    def descend(net: nn.Module, value: Tensor) -> None:
        params = list(net.parameters())
        with torch.no_grad():
            for p, g in zip(params, torch.autograd.grad(value, params)):
                p -= LR * g

    for step, batch in enumerate(batches):
        z, *_ = module.noise(batch["seed"], "discriminator")
        real, label = batch["image"].clone().requires_grad_(), label_of(batch)
        score = module.discriminator(real, label)
        value = game.discriminator(score, module.discriminator(module.generator(z, label).detach(), label))
        if step % every == 0:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            value = value + every * r1 / 2 * slope.square().sum((1, 2, 3)).mean()
        descend(module.discriminator, value)
        if (step + 1) % critic_steps == 0:
            z, *_ = module.noise(batch["seed"], "generator")
            real = module.discriminator(batch["image"], label) if game.relativistic else None
            descend(module.generator, game.generator(module.discriminator(module.generator(z, label), label), real))


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("loss", ["non_saturating", "relativistic"])
def test_training_is_what_a_plain_loop_gives(loss: str, conditional: bool) -> None:
    batches = make_batches(7)
    module = make(loss=loss, r1=0.4, penalty_every=3, critic_steps=2, conditional=conditional)
    expected, before = copy.deepcopy(module), copy.deepcopy(module)
    by_hand(expected, batches, loss, r1=0.4, every=3, critic_steps=2)
    assert not torch.allclose(expected.generator.head.weight, before.generator.head.weight, atol=1e-3)
    train(module, batches)
    assert_same_weights(module, expected, rtol=1e-5, atol=1e-6)


def test_counts_are_of_batches_whatever_the_critic_does() -> None:
    module = make(critic_steps=3, optimizer=partial(torch.optim.Adam, lr=1e-3))
    train(module, make_batches(7))
    assert (module.batches_seen, module.optimizer_steps, module.images_seen) == (7, 7, 42)
    steps = [int(o.state[o.param_groups[0]["params"][0]]["step"]) for o in module.trainer.optimizers]
    assert steps == [2, 7]
    assert set(module.last_losses) == {"d_loss", "accuracy_real", "accuracy_fake", "score_real", "score_fake"}
    assert set(module.last_grad_norms) == {"discriminator"}  # the generator had no turn


def test_each_player_has_its_rate_and_both_follow_the_schedule() -> None:
    module = make(discriminator_lr=4 * LR, lr_schedule=lambda step, time_share: 1 / (1 + step))
    train(module, make_batches(3))
    rates = [o.param_groups[0]["lr"] for o in module.trainer.optimizers]
    assert rates == pytest.approx([LR / 3, 4 * LR / 3])


def test_second_betas_and_penalties_are_annealed_by_the_step() -> None:
    halving = {name: (lambda step, time_share: 0.5**step) for name in ("penalty_schedule", "beta2_schedule")}
    module = make(optimizer=partial(torch.optim.Adam, lr=LR, betas=(0.0, 0.9)), r1=0.4, penalty_every=2, **halving)
    train(module, make_batches(3))
    for optimizer in module.trainer.optimizers:
        assert optimizer.param_groups[0]["betas"] == (0.0, pytest.approx(1 - 0.1 / 4))  # at step 2, the third
    module.optimizer_steps = 4
    value, logged = module.discriminator_losses(make_batches(1)[0])
    assert torch.allclose(value, logged["d_loss"] + 0.4 * 2 * 0.5**4 * logged["r1"])


@pytest.mark.parametrize("name", ["lr_schedule", "penalty_schedule", "beta2_schedule"])
def test_a_word_is_no_schedule(name: str) -> None:
    with pytest.raises(ValueError, match=f"model.{name}='cosine': give null or a schedule"):
        make(**{name: "cosine"})


def test_annealing_a_beta_that_the_optimiser_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no betas"):
        make(beta2_schedule=lambda step, time_share: 1.0).configure_optimizers()


def test_accumulated_batches_are_one_large_one() -> None:
    settings = {"gradient_penalty": 2.0, "loss": "wasserstein", "augment": ["color", "translation"]}
    parts = make_batches(6, size=4)
    pairs = [{k: torch.cat([a[k], b[k]]) for k in a} for a, b in zip(parts[::2], parts[1::2])]
    one, two = train(make(**settings), pairs), train(make(**settings), parts, accumulate=2)
    assert (one.optimizer_steps, two.optimizer_steps, two.batches_seen) == (3, 3, 6)
    assert_same_weights(one, two, rtol=1e-5, atol=1e-6)
    for name in ("d_loss", "g_loss", "gradient_penalty", "score_real", "score_fake"):
        assert torch.allclose(one.last_losses[name], two.last_losses[name], atol=1e-6), name


def test_half_precision_loses_no_gradient_and_no_step() -> None:
    """Half-precision copies of weights that autocast may keep, made without gradient or before D's step, are wrong."""
    settings = {"discriminator_lr": 5.0, "r1": 0.1}
    start = make(**settings)
    full, half = (train(make(**settings), make_batches(2), precision=p) for p in ("32-true", "bf16-mixed"))
    for player in ("generator", "discriminator"):
        a, b, c = (nn.utils.parameters_to_vector(getattr(m, player).parameters()) for m in (full, half, start))
        moved = (a - c).norm()
        assert moved > 0.05 and (a - b).norm() < 0.05 * moved, (player, float((a - b).norm() / moved))


class OnlyPenalty(GAN):
    """Its discriminator has no other aim than a small slope."""

    def discriminator_losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        logged = super().discriminator_losses(batch)[1]
        return logged["r1"], logged


def test_a_penalty_is_of_full_precision_down_to_its_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "GAN", OnlyPenalty)
    full, half = (train(make(r1=1.0), make_batches(1), precision=p) for p in ("32-true", "bf16-mixed"))
    assert isinstance(half, OnlyPenalty) and half.last_grad_norms["discriminator"] > 0.01
    assert_same_weights(half.discriminator, full.discriminator, rtol=1e-6, atol=1e-7)


def test_clipping_is_of_each_player_and_norms_are_from_before() -> None:
    start, module = make(clip_norm=0.01), train(make(clip_norm=0.01), make_batches(1))
    for player in ("generator", "discriminator"):
        a, b = (nn.utils.parameters_to_vector(getattr(m, player).parameters()) for m in (module, start))
        assert float((a - b).norm().detach()) == pytest.approx(LR * 0.01, rel=1e-3)
        assert module.last_grad_norms[player] > 0.02


def test_freezing_keeps_what_was_frozen_before() -> None:
    net = nn.Linear(2, 1)
    net.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(net):
        net(x).sum().backward()
    assert x.grad is not None and net.weight.grad is None
    assert net.weight.requires_grad and not net.bias.requires_grad


# ---- noise, augmentation, validation ----


def test_noise_is_each_samples_own_and_new_for_each_player() -> None:
    module, seeds = make(), torch.tensor([5, 6, 7])
    whole = module.noise(seeds, "discriminator")
    part = module.noise(seeds[1:], "discriminator")
    assert all(torch.equal(a[1:], b) for a, b in zip(whole, part))
    assert [tuple(t.shape) for t in whole] == [(3, DIM), (3, NUM_UNIFORM), (3, NUM_UNIFORM), (3,)]
    assert not torch.isclose(whole[0], module.noise(seeds, "generator")[0]).any()
    assert not torch.isclose(whole[1], whole[2]).any()


class Spy(MLPDiscriminator):
    """Remembers what it was shown."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.shown: list[Tensor] = []

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        self.shown.append(image.detach().clone())
        return super().forward(image, label)


def test_the_discriminator_sees_augmented_images_only() -> None:
    module = make(discriminator=partial(Spy, hidden=[8]), augment=["cutout"], r1=1.0, r2=1.0, loss="relativistic")
    (batch,) = make_batches(1)
    _, u_real, *_ = module.noise(batch["seed"], "discriminator")
    train(module, [batch])
    both, fake_again, real_again = module.discriminator.shown  # penalties look at what was scored
    real, fake = both.chunk(2)
    assert torch.equal(real, augment(batch["image"], ["cutout"], u_real))
    assert not torch.equal(real_again, real)  # each turn changes them anew
    assert all((image == 0).flatten(1).any(1).all() for image in (real, fake, fake_again, real_again))


@pytest.mark.parametrize("weights", [{"r1": 1.0, "r2": 1.0}, {"r1": 1.0}, {"r2": 1.0}])
@pytest.mark.parametrize("conditional", [False, True])
def test_slopes_are_by_the_images_before_augmentation(weights: dict[str, float], conditional: bool) -> None:
    module = make(augment=["color", "cutout"], conditional=conditional, **weights)
    (batch,) = make_batches(1)
    label, (z, u_real, u_fake, _) = module.label(batch), module.noise(batch["seed"], "discriminator")
    images = {"r1": (batch["image"], u_real), "r2": (module.generator(z, label).detach(), u_fake)}
    logged = module.discriminator_losses(batch)[1]
    for name in weights:
        x, u = images[name][0].clone().requires_grad_(), images[name][1]
        (slope,) = torch.autograd.grad(module.discriminator(augment(x, module.policy, u), label).sum(), x)
        assert torch.allclose(logged[name], slope.square().sum((1, 2, 3)).mean() / 2, rtol=1e-5)
    assert ("r1" in logged, "r2" in logged) == ("r1" in weights, "r2" in weights)


def test_penalties_are_paid_when_due_and_never_in_validation() -> None:
    module, batches = make(r2=1.0, penalty_every=2), make_batches(2)
    train(module, batches)
    assert "r2" not in module.last_losses
    module.optimizer_steps = 0
    value, logged = module.discriminator_losses(batches[0])
    assert logged["r2"] > 0 and torch.allclose(value, logged["d_loss"] + 2 * logged["r2"])
    module.eval()
    with torch.no_grad():
        found = module.validation_step(batches[0], 0)
    assert set(found) == {"d_loss", "g_loss", "accuracy_real", "accuracy_fake", "score_real", "score_fake"}


# ---- images ----


def convolutional(**settings: Any) -> GAN:
    generator, discriminator = partial(DCGANGenerator, dims=[4, 4]), partial(DCGANDiscriminator, dims=[4, 4])
    return make(generator=generator, discriminator=discriminator, **settings)


def test_an_image_depends_on_its_seed_and_class_alone() -> None:
    module = train(convolutional(conditional=True), make_batches(4))
    for p in module.generator.parameters():  # so that seeds and classes are seen in an image
        nn.init.normal_(p)
    assert module.conditioning == "label" and list(module.example_request().labels) == [0, 1, 2]
    before = copy.deepcopy(module.state_dict())
    module.train()  # a caller who forgot: batch norm must not see the other images
    image = module.sample(Request(4, labels=[0, 1, 2, 0]), seeds=[3, 4, 5, 3])
    assert image.shape == (4, 2, SIZE, SIZE) and image.abs().max() <= 1 and image.dtype == torch.float32
    torch.testing.assert_close(module.sample(Request(1, labels=[1]), seeds=[4]), image[1:2])
    assert torch.equal(image[0], image[3])
    assert not torch.allclose(module.sample(Request(1, labels=[2]), seeds=[4]), image[1:2], atol=1e-3)
    assert module.generator.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_truncation_scales_the_latents() -> None:
    module = make()
    assert module.conditioning == "none" and module.example_request() == Request(16)
    same = module.sample(Request(4), seeds=[1, 2, 3, 4], truncation=0.0)
    assert torch.allclose(same, same[:1].expand_as(same))
    full, half = module.sample(Request(2), seeds=[1, 2]), module.sample(Request(2), seeds=[1, 2], truncation=0.5)
    assert torch.equal(half, module.generate(0.5 * module.latents([1, 2]))) and not torch.allclose(full, half)


@pytest.mark.parametrize(
    ("conditional", "request_", "options", "complaint"),
    [
        (True, Request(2), {}, "draws 2 images of 2 class numbers, not of 2"),
        (True, Request(1, labels=[0]), {}, "draws 2 images of 2 class numbers"),
        (True, Request(2, labels=[0, 3]), {}, "label=3: the model knows the classes 0 to 2"),
        (False, Request(2), {"num_steps": 5}, "draws in one step: it has no num_steps"),
        (False, Request(2), {"truncation": -1.0}, "truncation=-1.0"),
    ],
)
def test_impossible_samples_are_refused(conditional: bool, request_: Request, options: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make(conditional=conditional).sample(request_, seeds=[0, 1], **options)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"loss": "hing"}, "model.loss='hing': choose one of minimax"),
        ({"critic_steps": 0}, "model.critic_steps=0: a whole number of at least 1"),
        ({"penalty_every": 0}, "model.penalty_every=0"),
        ({"r1": -1.0}, "model.r1=-1.0: a number of at least 0"),
        ({"augment": ["colour"]}, "model.augment="),
        ({"loss": "wasserstein"}, "needs a bound on the discriminator's slope: set model.gradient_penalty=10"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        make(**settings)
    assert "\n" not in str(error.value)


def test_a_slope_is_not_penalised_through_batch_norm() -> None:
    for penalty in ("r1", "r2", "gradient_penalty"):
        with pytest.raises(ValueError, match=f"model.{penalty} needs a score for each image by itself"):
            convolutional(**{penalty: 1.0})


def test_classes_are_asked_of_data_that_has_them() -> None:
    with pytest.raises(ValueError, match="conditional=true needs data with classes"):
        GAN(MLPGenerator, MLPDiscriminator, SIZE, 2, DIM, num_classes=None, conditional=True)


def test_spectral_norm_bounds_a_wasserstein_critic() -> None:
    discriminator = partial(DCGANDiscriminator, dims=[4, 4], norm="none", spectral=True)
    module = train(make(loss="wasserstein", discriminator=discriminator), make_batches(2))
    assert module.last_losses["d_loss"].isfinite()


def test_the_generator_alone_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    module = make(r1=1.0)
    module.compile_nets()
    assert module.generator._compiled_call_impl is not None and module.discriminator._compiled_call_impl is None
