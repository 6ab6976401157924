"""Generative adversarial networks: a generator and a discriminator, trained in turns against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rng.keyed import keyed_generators, keyed_randn, randn
from contracts import Request, label_tensor
from lightning_modules.base import GenerativeModule, check_schedules, seed_everything
from lightning_modules.gan_checks import check_arguments, check_layers
from networks.compiling import compile_nets
from objectives.adversarial import accuracy, adversarial_loss
from objectives.diff_augment import NUM_UNIFORM, augment, check_policy
from objectives.penalties import gradient_penalty, half_square, lazy, scores_and_slope


class GAN(GenerativeModule):
    """G(z), z ~ N(0, I): G learns to make images that D takes for data, and D learns to tell them from data.

    One batch is one step. A step updates D; every ``critic_steps``-th step then updates G. So ``optimizer_steps`` counts
    D's updates, and G gets optimizer_steps / critic_steps of them. With ``trainer.accumulate`` a step collects that many
    batches, and both players use all of them. Every update draws its own latents, keyed by the samples' seeds and the
    player. D sees augmented images only. r1 and r2 penalise its slope by the image before augmentation; the gradient
    penalty is taken between augmented images. ``d_loss`` is logged without the penalties, and these without their
    weights.

    With several processes batch norm takes its statistics within each process. Nets without it train as one process
    does on the whole batch.

    Args:
        generator: partial of a net (z (B, latent_dim), label (B,) or None) -> images in [-1, 1], called with
            image_size, channels, latent_dim and num_classes.
        discriminator: partial of a net (image, label) -> scores (B,), called with image_size, channels and num_classes;
            its attribute ``batch_norm`` says whether an image's score depends on its batch.
        num_classes: of the data; used where ``conditional``.
        conditional: G and D get the label of each image; the fakes of a batch have its labels.
        loss: one of ``objectives.adversarial.LOSSES``.
        r1, r2, gradient_penalty: weights of the penalties on D's slope at data, at fakes, and between them.
        penalty_every: penalties are computed at every so many steps, and count so many times there.
        penalty_schedule, beta2_schedule: multipliers as lr_schedule, of the penalties and of 1 - beta_2 of both players' Adam;
            None keeps them as they are.
        critic_steps: D's updates per update of G.
        augment: words of ``objectives.diff_augment.POLICIES``.
        discriminator_lr: learning rate of D; None is G's.
        **kwargs: optimiser of both, schedule and clipping, see ``GenerativeModule``.
    Raises: ValueError for an argument out of range, and for penalties or losses that D's layers do not allow.
    Source: Goodfellow et al. 2014; for losses and penalties see objectives/
    """

    averaged = "generator."

    def __init__(
        self,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        image_size: int,
        channels: int,
        latent_dim: int,
        num_classes: int | None = None,
        conditional: bool = False,
        loss: str = "non_saturating",
        r1: float = 0.0,
        r2: float = 0.0,
        gradient_penalty: float = 0.0,
        penalty_every: int = 1,
        penalty_schedule: Callable[[int, float], float] | None = None,
        beta2_schedule: Callable[[int, float], float] | None = None,
        critic_steps: int = 1,
        augment: Sequence[str] = (),
        discriminator_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        weights = {"r1": r1, "r2": r2, "gradient_penalty": gradient_penalty}
        counts = {"latent_dim": latent_dim, "critic_steps": critic_steps, "penalty_every": penalty_every}
        check_arguments(counts, weights)
        check_policy(augment)
        check_schedules(penalty_schedule=penalty_schedule, beta2_schedule=beta2_schedule)
        if conditional and not num_classes:
            raise ValueError("model.conditional=true needs data with classes: data=fashion_mnist, mnist or cifar10")
        self.automatic_optimization = False
        self.game = adversarial_loss(loss)
        self.num_classes = num_classes if conditional else None
        self.conditioning = "label" if conditional else "none"
        sizes = {"image_size": image_size, "channels": channels, "num_classes": self.num_classes}
        self.generator, self.discriminator = generator(latent_dim=latent_dim, **sizes), discriminator(**sizes)
        self.to(memory_format=torch.channels_last)  # 5 to 20 % less time a step, on a CPU with bfloat16
        self.latent_dim, self.critic_steps, self.penalty_every = latent_dim, critic_steps, penalty_every
        self.penalty_weights = {name: weight for name, weight in weights.items() if weight}
        self.penalty_schedule, self.beta2_schedule = penalty_schedule, beta2_schedule
        self.policy, self.discriminator_lr = tuple(augment), discriminator_lr
        check_layers(self.discriminator, self.penalty_weights, loss)
        self._held: list[dict[str, Any]] = []  # batches of a step that is not complete

    def compile_nets(self) -> None:
        """Compile the generator alone: penalties need second derivatives of the discriminator, which compiled code does not give."""
        compile_nets(nn.ModuleList([self.generator]))

    # ---- the two players ----

    def discriminator_losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What D minimises, and what to log of it."""
        label, (z, *uniform) = self.label(batch), self.noise(batch["seed"], "discriminator")
        with torch.no_grad():
            fake = self.generator(z, label).float()
        due, factor = lazy(self.optimizer_steps, self.penalty_every)
        weights = self.penalty_weights if self.training and due else {}
        on_real, on_fake, found = self.judged(batch["image"], fake, label, uniform, weights)
        loss = self.game.discriminator(on_real, on_fake)
        right = dict(zip(("accuracy_real", "accuracy_fake"), accuracy(self.game, on_real, on_fake)))
        scores = {"score_real": on_real.detach().float().mean(), "score_fake": on_fake.detach().float().mean()}
        if self.penalty_schedule is not None:
            factor *= self.penalty_schedule(self.optimizer_steps, self.time_share)
        paid = sum(factor * weights[name] * value for name, value in found.items())
        return loss + paid, {"d_loss": loss, **right, **scores, **found}

    def judged(
        self, real: Tensor, fake: Tensor, label: Tensor | None, uniform: Sequence[Tensor], asked: Collection[str]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """D's scores of augmented images (B,), real and generated, and the penalties that are asked for.

        Where D does not mix the images of a batch and both sides are treated alike, they are one batch.
        """
        u_real, u_fake, u = uniform

        def score(image: Tensor, u: Tensor, label: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
            def discriminator(image: Tensor) -> Tensor:
                return self.discriminator(augment(image, self.policy, u), label)

            return scores_and_slope(discriminator, image) if name in asked else (discriminator(image), None)

        if self.discriminator.batch_norm or ("r1" in asked) != ("r2" in asked):
            (on_real, at_real), (on_fake, at_fake) = score(real, u_real, label, "r1"), score(fake, u_fake, label, "r2")
        else:
            twice = None if label is None else label.repeat(2)
            scores, slope = score(torch.cat([real, fake]), torch.cat([u_real, u_fake]), twice, "r1")
            (on_real, on_fake), (at_real, at_fake) = scores.chunk(2), (None, None) if slope is None else slope.chunk(2)
        found = {name: half_square(at) for name, at in {"r1": at_real, "r2": at_fake}.items() if at is not None}
        if "gradient_penalty" in asked:
            seen = augment(real, self.policy, u_real), augment(fake, self.policy, u_fake)
            found["gradient_penalty"] = gradient_penalty(lambda image: self.discriminator(image, label), *seen, u)
        return on_real, on_fake, found

    def generator_losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What G minimises, with gradients through D and the augmentation, and what to log of it."""
        label, (z, u_real, u_fake, _) = self.label(batch), self.noise(batch["seed"], "generator")
        on_fake = self.discriminator(augment(self.generator(z, label).float(), self.policy, u_fake), label)
        on_real = None
        if self.game.relativistic:
            with torch.no_grad():
                on_real = self.discriminator(augment(batch["image"], self.policy, u_real), label)
        loss = self.game.generator(on_fake, on_real)
        return loss, {"g_loss": loss}

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """``d_loss``, ``g_loss``, and D's scores and shares of right answers; there is no one loss to minimise.

        Where D scores training images higher than validation images, it has memorised training images.
        """
        return self.discriminator_losses(batch)[1] | self.generator_losses(batch)[1]

    def noise(self, seeds: Tensor, player: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (B, latent_dim) and uniform numbers of one update: to augment data, to augment fakes, and (B,)."""
        generators = keyed_generators(seeds, "gan", player)
        z = randn((len(seeds), self.latent_dim), generators, self.device)
        u = torch.stack([torch.rand(2 * NUM_UNIFORM + 1, generator=g) for g in generators]).to(self.device)
        return z, u[:, :NUM_UNIFORM], u[:, NUM_UNIFORM:-1], u[:, -1]

    def label(self, batch: dict[str, Any]) -> Tensor | None:
        """The batch's classes (B,) where they are used."""
        return None if self.num_classes is None else batch["label"]

    # ---- training in turns ----

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        seed_everything(self.run_seed, self.global_rank, self.batches_seen)
        self.last_losses = {}
        self._held.append(batch)
        self.batches_seen += 1
        self.images_seen += batch["image"].shape[0] * self.world_size
        if self.batches_seen % self.trainer.accumulate_grad_batches == 0:
            batches, self._held = self._held, []
            self.take_turns(batches)

    def take_turns(self, batches: list[dict[str, Any]]) -> None:
        """One step of the run, on the batches that it accumulates."""
        of_generator, of_discriminator = self.optimizers()
        self.last_grad_norms = {}
        self.update(of_discriminator, self.discriminator_losses, batches)
        if (self.optimizer_steps + 1) % self.critic_steps == 0:
            with frozen(self.discriminator):
                self.update(of_generator, self.generator_losses, batches)
        self.optimizer_steps += 1

    def update(self, optimizer: Any, losses_of: Callable[..., Any], batches: list[dict[str, Any]]) -> None:
        """One step of one player, on the mean of its loss over the batches."""
        self.set_learning_rate(optimizer)
        optimizer.zero_grad()
        alone = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        for i, batch in enumerate(batches):
            loss, logged = losses_of(batch)
            for name, value in logged.items():
                self.last_losses[name] = self.last_losses.get(name, 0.0) + value.detach() / len(batches)
            # Without autocast: a penalty's second derivative needs full precision.
            with torch.autocast(self.device.type, enabled=False), nullcontext() if i == len(batches) - 1 else alone():
                self.manual_backward(loss / len(batches))
        optimizer.step()

    def set_learning_rate(self, optimizer: torch.optim.Optimizer) -> None:
        """Learning rate and beta_2 of this step, of any session of the run."""
        super().set_learning_rate(optimizer)
        if self.beta2_schedule is not None:
            for group in optimizer.param_groups:
                beta_1, beta_2 = group["initial_betas"]
                group["betas"] = (beta_1, 1 - (1 - beta_2) * self.beta2_schedule(self.optimizer_steps, self.time_share))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """G's and D's."""
        optimizers = [self.optimizer(group) for group in self.clip_groups().values()]
        for group in optimizers[1].param_groups:
            group["lr"] = group["lr"] if self.discriminator_lr is None else self.discriminator_lr
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["initial_lr"] = group["lr"]
            if self.beta2_schedule is not None:
                if "betas" not in group:
                    raise ValueError("model.beta2_schedule is for Adam's second beta: the optimizer has no betas")
                group["initial_betas"] = group["betas"]
        return optimizers

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """Each player by itself, in the order of the optimisers."""
        players = {"generator": self.generator, "discriminator": self.discriminator}
        return {name: [p for p in net.parameters() if p.requires_grad] for name, net in players.items()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning clips nothing under manual optimisation. This is called after callbacks, which may drop gradients.
        name = list(self.clip_groups())[self.trainer.optimizers.index(optimizer)]
        self.clip(name, [p for group in optimizer.param_groups for p in group["params"]])

    # ---- images ----

    @torch.no_grad()
    def sample(
        self, request: Request, *, seeds: Sequence[int], truncation: float | None = None, **others: Any
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1], image i from seeds[i] and, where the model is conditional, its class number.

        Args:
            truncation: factor on the latents, 1 by default; below 1 images are more typical and less varied.
        Raises: ValueError for a request without classes where the model needs them, unknown classes, a negative truncation or an
            option that a GAN does not have.
        Source: Brock et al. 2019 (BigGAN), section 3.1; Karras et al. 2019 (StyleGAN), appendix B, for the factor
        """
        if others:
            raise ValueError(f"a GAN draws in one step: it has no {', '.join(others)}, only truncation")
        truncation = 1.0 if truncation is None else truncation
        if not 0 <= truncation < float("inf"):
            raise ValueError(f"truncation={truncation}: give a number of at least 0")
        return self.generate(truncation * self.latents(seeds), self._classes(request, len(seeds)))

    def sampling_settings(self) -> dict[str, Any]:
        """What ``sample`` does unless it is told otherwise."""
        return {"truncation": 1.0}

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """z (n, latent_dim) of the images that ``sample`` draws from these seeds."""
        return keyed_randn(seeds, (self.latent_dim,), "gan sample", device=self.device)

    @torch.no_grad()
    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] of latents (B, latent_dim) and classes (B,), each on its own."""
        training = self.generator.training
        self.generator.eval()  # batch norm by its running statistics
        try:
            return self.generator(z.to(self.dtype), label).float()
        finally:
            self.generator.train(training)

    def example_request(self) -> Request:
        """One image of every class, or 16."""
        return Request(16) if self.num_classes is None else Request(self.num_classes, labels=range(self.num_classes))

    def _classes(self, request: Request, n: int) -> Tensor | None:
        if self.num_classes is None:
            return None
        if request.labels is None or request.n != n or None in request.labels:
            asked = request.n if request.labels is None else list(request.labels)
            raise ValueError(f"a class-conditional GAN draws {n} images of {n} class numbers, not of {asked}")
        unknown = [c for c in request.labels if not 0 <= c < self.num_classes]
        if unknown:
            raise ValueError(f"label={unknown[0]}: the model knows the classes 0 to {self.num_classes - 1}")
        return label_tensor(request.labels, self.device)[0]


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Gradients flow through the net, but none to its weights."""
    params = [p for p in net.parameters() if p.requires_grad]
    for p in params:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in params:
            p.requires_grad_(True)
