"""Imagen: a frozen text encoder and a cascade of text-conditional diffusion models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contracts import Request
from diffusion.random import keyed_rand
from lightning_modules.base import GenerativeModule
from lightning_modules.stage import DiffusionStage


class Imagen(GenerativeModule):
    """P(image | text) by a base diffusion model and super-resolution diffusion models above it.

    Stages are trained independently of each other: each has its own loss and gradient clip, and all its noise is keyed
    by the samples' seeds and its name, so that training all in one run gives what separate runs give.

    Args:
        text_encoder: a frozen ``TextEncoder``; kept out of the module tree, so never in a checkpoint.
        stages: name -> ``DiffusionStage``, in the order in which they are sampled.
        train_stages: names of the stages that this run trains; None for all.
        example_prompts: prompts of the sample grids.
        **kwargs: optimiser, schedule and clipping, see ``GenerativeModule``.

    Raises:
        ValueError: for unknown stage names or stages whose sizes do not fit together.

    Source: Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding".
    """

    conditioning = "text"

    def __init__(
        self,
        text_encoder: Any,
        stages: dict[str, DiffusionStage],
        *,
        train_stages: Sequence[str] | None = None,
        example_prompts: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_stages(stages, train_stages)
        self.stages = nn.ModuleDict(stages)
        self.train_stages = list(stages if train_stages is None else train_stages)
        self.example_prompts = list(example_prompts)
        self.text_encoder = text_encoder
        for name, stage in self.stages.items():
            stage.requires_grad_(name in self.train_stages)

    # ---- training ----

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """One loss per trained stage and their sum, from a batch with ``image``, ``caption`` and ``seed``."""
        text, mask, keep = self.embed(batch["caption"], batch.get("text_embeds"), batch.get("text_mask"))
        text = text * keep[:, None, None]
        losses = {}
        for name in self.train_stages:
            stage = self.stages[name]
            n = max(1, round(stage.batch_share * len(text)))  # rank r holds samples r, r + world, ...: the same n first
            per_sample = stage.loss(batch["image"][:n], text[:n], mask[:n], batch["seed"][:n], self.quantiles(n, name), name)
            losses[f"loss_{name}"] = per_sample.mean()
            if self.training:
                stage.images_trained += n * self.world_size
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def quantiles(self, n: int, tag: str) -> Tensor:
        """n uniform numbers in [0, 1) for noise levels, spread evenly over the global batch from one random offset, which lowers the variance.

        Source: Kingma et al. 2021 (VDM), appendix I.1.
        """
        offset = keyed_rand([self.batches_seen], tag, "t", self.run_seed if self.training else "validation")
        place = torch.arange(n) * self.world_size + self.global_rank
        return ((offset + place / (n * self.world_size)) % 1.0).to(self.device)

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """One gradient clip per stage: a joint run then equals separate runs."""
        return {name: [p for p in self.stages[name].parameters() if p.requires_grad] for name in self.train_stages}

    # ---- text ----

    def embed(
        self, captions: Sequence[str], embeds: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, L, D), mask (B, L) bool and keep (B,) bool, which is False for an empty caption."""
        if embeds is None:
            with torch.autocast(self.device.type, enabled=False):  # embeddings, and their cache, are of full precision
                encoded = self.text_encoder.encode(list(captions)).to(self.device)
            embeds, mask = encoded.embeds, encoded.mask
        keep = torch.tensor([bool(c.strip()) for c in captions], device=self.device)
        return embeds.to(self.device), mask.to(self.device), keep

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for a prompt longer than the encoder reads."""
        self.text_encoder.check_length(list(prompts), strict=True)

    # ---- sampling ----

    @torch.no_grad()
    def sample(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        stages: Sequence[str] | None = None,
        lowres: Tensor | None = None,
        guidance_scale: float | dict[str, float] | None = None,
        num_steps: int | dict[str, int] | None = None,
        sampler: Callable[..., Tensor] | None = None,
        threshold: str | None = None,
        aug_level: float | None = None,
    ) -> Tensor:
        """Images (B, C, S, S) in [-1, 1] for prompts; an image depends on its prompt and its seed only.

        Args:
            request: with n texts; an empty one is drawn unconditionally.
            seeds: B integers.
            stages: names of the stages to run, in order; None for all. Stopping early gives smaller images.
            lowres: (B, C, s, s) to start from, where the first of ``stages`` is a super-resolution stage.
            guidance_scale: a number for the first of ``stages``, whose picture the others enlarge, or stage name -> number.
            num_steps: a number for every stage, or stage name -> number. None leaves a stage as configured.

        Raises:
            ValueError: for an untrained stage, seeds that do not match the prompts, a missing ``lowres``.
        """
        names = list(self.stages if stages is None else stages)
        self._check_sampling(names, request, seeds, lowres)
        text, mask, keep = self.embed(request.texts)
        if not isinstance(guidance_scale, dict):
            guidance_scale = {names[0]: guidance_scale}
        image = lowres
        for name in names:
            image = self.stages[name].sample(
                text,
                mask,
                keep,
                seeds,
                name,
                lowres=image,
                guidance_scale=guidance_scale.get(name),
                num_steps=num_steps.get(name) if isinstance(num_steps, dict) else num_steps,
                sampler=sampler,
                threshold=threshold,
                aug_level=aug_level,
            )
        return image

    def sampling_refusal(self, stages: Sequence[str] | None = None) -> str | None:
        """Why these stages (None: all) cannot be sampled; None if they can."""
        untrained = [n for n in (self.stages if stages is None else stages) if not int(self.stages[n].images_trained)]
        if not untrained:
            return None
        return (
            f"stage {untrained[0]!r} is not trained: train it with model.train_stages=[{untrained[0]}], "
            "or sample the trained ones with stages=[…]"
        )

    def _check_sampling(self, names, request, seeds, lowres) -> None:
        if request.texts is None:
            raise ValueError("Imagen draws from prompts: give one per image, an empty one for an unconditional image")
        if not names:
            raise ValueError(f"stages=[]: name at least one of {', '.join(self.stages)}")
        unknown = [n for n in names if n not in self.stages]
        if unknown:
            raise ValueError(f"stages={names}: there is no stage {unknown[0]!r}, only {', '.join(self.stages)}")
        refusal = self.sampling_refusal(names)
        if refusal:
            raise ValueError(refusal)
        if len(seeds) != request.n:
            raise ValueError(f"{len(seeds)} seeds for {request.n} prompts: give one seed per image")
        if self.stages[names[0]].lowres_size is not None and lowres is None:
            raise ValueError(f"stage {names[0]!r} starts from a low-resolution image: give lowres, or start at the base stage")

    def example_request(self) -> Request:
        """The example prompts."""
        return Request(len(self.example_prompts), texts=self.example_prompts)

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["text_encoder"] = encoder_identity(self.text_encoder)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.check_identity(checkpoint)

    def check_identity(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the checkpoint was trained with another text encoder."""
        trained, here = checkpoint.get("text_encoder"), encoder_identity(self.text_encoder)
        if trained is not None and dict(trained) != here:
            raise ValueError(
                f"the checkpoint was trained with text encoder {trained['id']} ({trained['revision']}), this run has "
                f"{here['id']} ({here['revision']}): set text_encoder to the first"
            )


def encoder_identity(encoder: Any) -> dict[str, str]:
    """What makes two encoders the same, in plain strings."""
    return {"id": encoder.id, "revision": encoder.revision}


def check_stages(stages: dict[str, DiffusionStage], train_stages: Sequence[str] | None) -> None:
    """Raise ValueError unless the stages form a cascade and ``train_stages`` names some of them."""
    if not stages:
        raise ValueError("model.stages is empty: an Imagen needs at least a base stage")
    previous = None
    for name, stage in stages.items():
        if stage.lowres_size != previous:
            raise ValueError(
                f"stage {name!r} starts from lowres_size={stage.lowres_size}, but the stage before it gives {previous}"
            )
        previous = stage.image_size
    if train_stages is not None and not list(train_stages):
        raise ValueError(f"model.train_stages=[]: name at least one of {', '.join(stages)}, or null for all")
    unknown = [n for n in train_stages or () if n not in stages]
    if unknown:
        raise ValueError(f"model.train_stages: there is no stage {unknown[0]!r}, only {', '.join(stages)}")

