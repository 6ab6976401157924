"""A family of one or more diffusion stages, each trained by itself and sampled one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contracts import Batch, Request, label_tensor
from rng.keyed import keyed_rand
from lightning_modules.base import GenerativeModule
from lightning_modules.clip_guidance import ClipGuidance
from lightning_modules.distillation import Distillation
from lightning_modules.filming import Filming
from lightning_modules.inpainting import Inpainting
from lightning_modules.stage import DiffusionStage


class Cascade(Inpainting, Filming, ClipGuidance, GenerativeModule):
    """Diffusion stages that train independently of each other and are sampled in order.

    Each stage has its own loss and gradient clip, and all its noise is keyed by the samples' seeds and its name, so that
    training all in one run gives what separate runs give. A subclass adds what its stages are told: `fields` for a
    training batch, `request_fields` for a request.

    Args:
        stages: name -> ``DiffusionStage``, in the order in which they are sampled.
        train_stages: names of the stages that this run trains; None for all.
        distill: learn the steps of a trained model of the same stages, and draw in few; None learns from the data alone.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.

    Raises:
        ValueError: for unknown stage names or stages whose sizes do not fit together.

    Source: Ho et al. 2022 (cascaded diffusion)
    """

    def __init__(
        self,
        stages: dict[str, DiffusionStage],
        *,
        train_stages: Sequence[str] | None = None,
        distill: Distillation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_stages(stages, train_stages)
        self.stages = nn.ModuleDict(stages)
        self.train_stages = list(stages if train_stages is None else train_stages)
        for name, stage in self.stages.items():
            stage.requires_grad_(name in self.train_stages)
        self.distill = distill
        if distill is not None:
            distill.prepare({name: self.stages[name] for name in self.train_stages})
        self._weaker: list[Cascade] = []  # a list keeps it out of the module tree
        self._clip = []

    @property
    def weaker(self) -> Cascade | None:
        """The model that guidance moves away from, where there is one."""
        return self._weaker[0] if self._weaker else None

    def guide_by(self, other: Any) -> None:
        """Guide by a weaker model of the same stages, such as an earlier checkpoint, in place of dropped conditions.

        Raises: ValueError for a model with other stages, of another size, that reads other conditions, or is not trained.
        Source: Karras et al. 2024 ("Guiding a Diffusion Model with a Bad Version of Itself")
        """
        self.check_like(other)
        self._weaker = [other.to(self.device).eval()]

    def check_like(self, other: Any) -> None:
        """Raises ValueError unless another model has the same stages, spaces and conditions, and is trained."""
        if not isinstance(other, Cascade) or list(other.stages) != list(self.stages):
            raise ValueError(f"give a checkpoint of the same model, with the stages {', '.join(self.stages)}")
        for name, stage in other.stages.items():
            own = self.stages[name]
            if stage.space.shape != own.space.shape or stage.space.identity != own.space.identity:
                raise ValueError(f"stage {name!r} draws {stage.space.shape} in a space of its own, not {own.space.shape} of this model's")
        if other.conditioning not in ("none", self.conditioning):
            raise ValueError(f"it is told a {other.conditioning}, and this model is not")
        if (refusal := other.sampling_refusal()) is not None:
            raise ValueError(refusal)

    @property
    def conditioning(self) -> str:
        """What the stages' conditioners read of a request: "text", "label" or "none"."""
        read = {c.reads for stage in self.stages.values() for c in stage.conditioners.values()}
        return next((kind for kind in ("text", "label") if kind in read), "none")

    # ---- what a family adds ----

    def fields(self, batch: Batch) -> Batch:
        """A training batch with everything that the stages read."""
        return batch

    def request_fields(self, request: Request) -> Batch:
        """What the stages' conditioners read, for the images of a request.

        Raises: ValueError for a request without what the family needs.
        """
        if self.conditioning == "none":
            return {}
        labels = [None] * request.n if request.labels is None else request.labels
        label, keep = label_tensor(labels, self.device)
        known = next(c.num_classes for s in self.stages.values() for c in s.conditioners.values() if c.reads == "label")
        if wrong := [c for c in labels if c is not None and not 0 <= c < known]:
            raise ValueError(f"label={wrong[0]}: the model knows the classes 0 to {known - 1}")
        return {"label": label, "label_keep": keep}

    # ---- training ----

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """One loss per trained stage and their sum; of a single stage the sum alone."""
        batch = self.fields(batch)
        losses = {}
        for name in self.train_stages:
            stage = self.stages[name]
            share = stage.batch_share if self.training else 1.0  # validation is of every image, whatever the batch size
            n = max(1, round(share * len(batch["image"])))  # rank r holds samples r, r + world, ...
            part = {key: value[:n] for key, value in batch.items()}
            quantiles = part["quantile"] if "quantile" in part else self.quantiles(n, name)
            loss = stage.loss if self.distill is None else functools.partial(self.distill.loss, module=self)
            losses[f"loss_{name}"] = loss(part, quantiles.to(self.device), name).mean()
            if self.training:
                stage.images_trained += n * self.world_size
        return {"loss": torch.stack(list(losses.values())).sum(), **(losses if len(self.stages) > 1 else {})}

    @torch.no_grad()
    def loss_by_level(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Trained stage -> log-SNR (B,) and loss (B,) at the levels of the batch's `quantile`."""
        batch, u = self.fields(batch), batch["quantile"].to(self.device)
        found = {}
        for name in self.train_stages:
            stage = self.stages[name]
            if not isinstance(stage, DiffusionStage):  # without noise levels
                continue
            log_snr = stage.schedule.log_snr(stage.times.draw(u, stage.schedule))
            found[name] = log_snr, stage.loss(batch, u, name)
        return found

    def quantiles(self, n: int, tag: str) -> Tensor:
        """n uniform numbers in [0, 1) for noise levels, spread evenly over the global batch from one random offset.

        The even spread lowers the variance of the loss. Validation brings its own, as `quantile` of its batches.
        Source: Kingma et al. 2021 (VDM), appendix I.1.
        """
        offset = keyed_rand([self.batches_seen], tag, "t", self.run_seed)
        place = torch.arange(n) * self.world_size + self.global_rank
        return ((offset + place / (n * self.world_size)) % 1.0).to(self.device)

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """One gradient clip per stage: a joint run then equals separate runs."""
        return {name: [p for p in self.stages[name].parameters() if p.requires_grad] for name in self.train_stages}

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if found := self.frozen():
            checkpoint["frozen"] = found
        if self.distill is not None and self.distill.identity is not None:
            checkpoint["teacher"] = self.distill.identity

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.check_identity(checkpoint)
        if self.distill is not None:
            self.distill.identity = checkpoint.get("teacher")

    def frozen(self) -> dict[str, str]:
        """Stage -> checksum of the frozen model in its space, where it has one."""
        return {name: s.space.identity for name, s in self.stages.items() if s.space.identity is not None}

    def check_identity(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the checkpoint was trained over another frozen model."""
        trained, here = checkpoint.get("frozen") or {}, self.frozen()
        if other := next((name for name in trained if trained[name] != here.get(name)), None):
            raise ValueError(
                f"stage {other!r} was trained on the latents of another model than {self.stages[other].space.ckpt}: "
                "give the run it was trained on as space.ckpt"
            )

    # ---- sampling ----

    @torch.no_grad()
    def sample(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        stages: Sequence[str] | None = None,
        guidance_scale: float | dict[str, float] | None = None,
        guidance_interval: Sequence[float] | None = None,
        num_steps: int | dict[str, int] | None = None,
        sampler: Callable[..., Tensor] | None = None,
        threshold: str | None = None,
        aug_level: float | None = None,
        clip_scale: float | None = None,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1]; an image depends on its part of the request and on its seed only.

        Args:
            request: what the family is asked for. Where the first of ``stages`` is a super-resolution stage, its
                ``images`` are the low-resolution pictures to start from.
            seeds: n integers.
            stages: names of the stages to run, in order; None for all. Stopping early gives smaller images.
            guidance_scale: a number for the first of ``stages``, whose picture the others enlarge, or stage name -> number.
            guidance_interval: [low, high] of the log-SNR at which the stages are guided.
            num_steps: a number for every stage, or stage name -> number. None leaves a stage as configured.
            clip_scale: factor on the gradient of the CLIP of `guide_by_clip`; None is 1.

        Raises:
            ValueError: for an untrained stage, seeds that do not match the request, missing images.
        """
        names = list(self.stages if stages is None else stages)
        self.check_sampling(names, request, seeds)
        return self.through(
            names, self.request_fields(request), seeds, request.images, guidance_scale=guidance_scale, num_steps=num_steps,
            guidance_interval=guidance_interval, sampler=sampler, threshold=threshold, aug_level=aug_level,
            captions=request.texts, clip_scale=clip_scale,
        )  # fmt: skip

    def through(
        self,
        names: Sequence[str],
        fields: Batch,
        seeds: Sequence[int],
        image: Tensor | None = None,
        *,
        guidance_scale: float | dict[str, float] | None = None,
        num_steps: int | dict[str, int] | None = None,
        aug_level: float | None = None,
        captions: Sequence[str] | None = None,
        clip_scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] by some stages, one after the other.

        Args:
            names: of stages that draw images.
            fields: what their conditioners read.
            image: to start from, where the first of them enlarges one.
            captions: that a CLIP guides by; None guides by none.
            others: as of `sample`; further ones go to every stage.
        """
        if not isinstance(guidance_scale, dict):
            guidance_scale = {names[0]: guidance_scale}
        image = None if image is None else image.to(self.device)
        for name in names:
            image = self.stages[name].sample(
                fields,
                seeds,
                name,
                device=self.device,
                lowres=image,
                guidance_scale=guidance_scale.get(name),
                num_steps=num_steps.get(name) if isinstance(num_steps, dict) else num_steps,
                aug_level=aug_level if self.stages[name].lowres is not None else None,
                weaker=None if self.weaker is None else self.weaker.stages[name],
                **options,
                **self.clip_options(captions, self.stages[name], clip_scale),
            )
        return image

    @property
    def base(self) -> str:
        """Name of the first stage that draws images, or of the first where none does."""
        return next((name for name, stage in self.stages.items() if stage.space.image_size is not None), next(iter(self.stages)))

    def drawing_fields(self, request: Request, seeds: Sequence[int]) -> Batch:
        """What the base stage's conditioners read, as `request_fields`, where some of it is drawn."""
        return self.request_fields(request)

    def sampling_settings(self) -> dict[str, Any]:
        """How each stage samples where no option is given."""
        found = {name: stage.settings(guided=self.weaker is not None) for name, stage in self.stages.items()}
        clip = {"clip_scale": 1.0} if self._clip else {}
        if len(found) == 1:
            return next(iter(found.values())) | clip
        return {f"{name}.{key}": value for name, settings in found.items() for key, value in settings.items()} | clip

    def sampling_refusal(self, stages: Sequence[str] | None = None) -> str | None:
        """Why these stages (None: all) cannot be sampled; None if they can."""
        untrained = [n for n in (self.stages if stages is None else stages) if not int(self.stages[n].images_trained)]
        if not untrained:
            return None
        if len(self.stages) == 1:
            return "the model is not trained yet"
        return (
            f"stage {untrained[0]!r} is not trained: train it with model.train_stages=[{untrained[0]}], "
            "or sample the trained ones with stages=[…]"
        )

    def check_sampling(self, names: Sequence[str], request: Request, seeds: Sequence[int]) -> None:
        """Raises ValueError for stages that are not there or not trained, and for what does not fit together."""
        if not names:
            raise ValueError(f"stages=[]: name at least one of {', '.join(self.stages)}")
        unknown = [n for n in names if n not in self.stages]
        if unknown:
            raise ValueError(f"stages={list(names)}: there is no stage {unknown[0]!r}, only {', '.join(self.stages)}")
        refusal = self.sampling_refusal(names)
        if refusal:
            raise ValueError(refusal)
        if len(seeds) != request.n:
            raise ValueError(f"{len(seeds)} seeds for {request.n} images: give one seed per image")
        if self.stages[names[0]].lowres is not None and request.images is None:
            raise ValueError(f"stage {names[0]!r} starts from a low-resolution image: give images, or start at the base stage")


def check_stages(stages: dict[str, DiffusionStage], train_stages: Sequence[str] | None) -> None:
    """Raise ValueError unless the stages form a cascade and ``train_stages`` names some of them."""
    if not stages:
        raise ValueError("model.stages is empty: a cascade needs at least a base stage")
    previous = None
    for name, stage in stages.items():
        if stage.space.image_size is None and previous is not None:
            raise ValueError(f"stage {name!r} draws no images: it belongs before the stages that do")
        size = None if stage.lowres is None else stage.lowres.size
        if size != previous:
            raise ValueError(f"stage {name!r} starts from lowres.size={size}, but the stage before it gives {previous}")
        previous = stage.space.image_size
    if train_stages is not None and not list(train_stages):
        raise ValueError(f"model.train_stages=[]: name at least one of {', '.join(stages)}, or null for all")
    unknown = [n for n in train_stages or () if n not in stages]
    if unknown:
        raise ValueError(f"model.train_stages: there is no stage {unknown[0]!r}, only {', '.join(stages)}")
