"""DALL-E 2 (unCLIP): a prior draws the CLIP embedding of an image, a decoder the image of an embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from contracts import Batch, Request
from diffusion.samplers import ddim, ddim_invert
from lightning_modules.autoregressive_prior import AutoregressivePrior
from lightning_modules.base import matrices_and_rest
from lightning_modules.cascade import Cascade
from lightning_modules.frozen_clip import FrozenCLIP
from lightning_modules.stage import DiffusionStage
from rng.keyed import keyed_generators

Prior = Literal["none", "text", "diffusion", "autoregressive"]
INVERSION_STEPS = 100  # of DDIM there and back, where none are given
AT_ONCE = 64  # images that CLIP reads where all are wanted


class DallE2(Cascade):
    """P(image | text) = P(image | embedding, text) P(embedding | text), by a frozen CLIP and three kinds of stages.

    Args:
        clip: embeds the images and captions; kept out of the module tree, so never in a checkpoint.
        stages: name -> stage, in the order in which they are sampled: priors over ``Embeddings``, a decoder of images that has
            an ``ImageEmbeddingConditioner``, upsamplers.
        candidates: embeddings that a prior draws for an image; the one closest to the caption's is kept.
        example_prompts: prompts of the sample grids; None leaves them to the data.
        **kwargs: ``train_stages``, optimiser, schedule and clipping, see ``Cascade``.

    Raises:
        ValueError: for unknown stage names, stages that do not fit together, or a prior of another CLIP's embeddings.

    Source: Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents".
    """

    conditioning = "text"

    def __init__(
        self,
        clip: FrozenCLIP,
        stages: dict[str, DiffusionStage | AutoregressivePrior],
        *,
        candidates: int = 2,
        example_prompts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(stages, **kwargs)
        self.embedder, self.candidates, self.example_prompts = clip, candidates, list(example_prompts or ())
        self.priors = {kind_of(stage): name for name, stage in stages.items() if stage.space.image_size is None}
        if self.stages[self.base].lowres is not None or self.base in self.priors.values():
            raise ValueError(f"the stages {', '.join(stages)} have no decoder: a stage of pixels without lowres")
        for name in self.priors.values():
            if (shape := self.stages[name].space.shape) != (clip.embed_dim,):
                raise ValueError(f"stage {name!r} draws embeddings of {shape[0]} numbers, and clip.embed_dim={clip.embed_dim}")

    # ---- what the stages are told ----

    def fields(self, batch: Batch) -> Batch:
        """The batch with the embeddings of its images and captions, as far as the stages that train read them."""
        training = [self.stages[name] for name in self.train_stages if self.stages[name].lowres is None]
        found: Batch = {}
        if training and "image_embeds" not in batch:
            found["image_embeds"] = self.embedder.images(batch["image"])
        if any(reads_text(stage) for stage in training):
            if "caption" not in batch:
                raise ValueError("DALL-E 2 learns from captions: choose data with captions, as data=scenes or data=captions")
            found |= self.embedder.texts(batch["caption"], self.device)
        return batch | found

    def request_fields(self, request: Request) -> Batch:
        """The embeddings of the prompts."""
        if request.texts is None:
            raise ValueError("this model draws from prompts: give one per image, an empty one for an unconditional image")
        return self.embedder.texts(request.texts, self.device)

    def drawing_fields(self, request: Request, seeds: Sequence[int]) -> Batch:
        """The embeddings of the prompts, and those of images that the prior draws for them."""
        text = self.request_fields(request)
        return text | self.image_fields(text, seeds)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for a prompt longer than CLIP reads."""
        self.embedder.check_prompts(prompts)

    def example_request(self) -> Request:
        """The example prompts, or nothing where they are left to the data."""
        return Request(len(self.example_prompts), texts=self.example_prompts)

    def setup(self, stage: str) -> None:
        """Loads CLIP, so that one that is not there, or does not fit, is told before training."""
        self.embedder.model()

    def on_fit_start(self) -> None:
        """Finds the components of an autoregressive prior, unless a checkpoint brought them: in every process the same ones."""
        for name in self.train_stages:
            stage = self.stages[name]
            if not isinstance(stage, AutoregressivePrior) or stage.fitted:
                continue
            data, found = self.trainer.datamodule.train_dataset, []
            for start in range(0, stage.fit_images, AT_ONCE):
                items = [data[(i % len(data), i)] for i in range(start, min(start + AT_ONCE, stage.fit_images))]
                image = torch.stack([item["image"] for item in items])
                found.append((self.embedder.images(image), self.embedder.texts([item["caption"] for item in items])["text_vector"]))
            stage.fit(*(torch.cat(part) for part in zip(*found)))
            if self.global_rank == 0:
                print(f"stage {name!r}: {stage.components} components keep {float(stage.variance_kept):.1%} of the variance of "
                      f"{stage.fit_images} embeddings", flush=True)  # fmt: skip

    def param_groups(self) -> list[dict[str, Any]]:
        """Matrices, and apart from them the tables of places and codes, which Muon would spoil."""
        return matrices_and_rest(self)

    # ---- checkpoints ----

    def frozen(self) -> dict[str, str]:
        """`clip` -> checksum of the CLIP."""
        return super().frozen() | {"clip": self.embedder.identity}

    def check_identity(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the checkpoint was trained with another CLIP."""
        trained = (checkpoint.get("frozen") or {}).get("clip")
        if trained is not None and trained != self.embedder.identity:
            raise ValueError(f"the checkpoint was trained with another CLIP than {self.embedder.name}: "
                             "give the one it was trained with as clip.ckpt")  # fmt: skip
        super().check_identity(checkpoint)

    def guide_by(self, other: Any) -> None:
        """As of ``Cascade``; both models read one CLIP."""
        if isinstance(other, DallE2) and other.embedder.identity != self.embedder.identity:
            raise ValueError("it was trained with another CLIP")
        super().guide_by(other)

    # ---- sampling ----

    @torch.no_grad()
    def sample(
        self,
        request: Request,
        *,
        seeds: Sequence[int],
        prior: Prior | None = None,
        candidates: int | None = None,
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
            prior: where the decoder's image embedding comes from: `none` leaves it out, so that the caption is all it knows;
                `text` puts the caption's embedding in its place; `diffusion` and `autoregressive` are the stages that draw it.
                None is the first of these that the model has.
            candidates: embeddings drawn for an image, of which the closest to the caption's is kept; None as configured.
            stages: names of the stages that draw images, in order; None for all. The prior is not named here.
            guidance_scale: a number for the first of ``stages``, or stage name -> number, the prior's too.
            others: as of ``Cascade.sample``; `threshold` is not for the prior, whose embeddings have no bounds.

        Raises:
            ValueError: for an untrained stage, a prior that the model has not, seeds that do not match the request.
        """
        names = self.drawing(stages)
        self.check_sampling(names, request, seeds)
        drawing = {"num_steps": num_steps, "sampler": sampler, "guidance_interval": guidance_interval}
        fields: Batch = {}
        if self.stages[names[0]].lowres is None:
            text = self.request_fields(request)
            scales = guidance_scale if isinstance(guidance_scale, dict) else None
            fields = text | self.image_fields(text, seeds, prior, candidates, guidance_scale=scales, **drawing)
        return self.through(
            names, fields, seeds, request.images, guidance_scale=guidance_scale, threshold=threshold, aug_level=aug_level,
            captions=request.texts, clip_scale=clip_scale, **drawing
        )

    def drawing(self, stages: Sequence[str] | None) -> list[str]:
        """Names of the stages to run that draw images."""
        names = [name for name in (self.stages if stages is None else stages) if name not in self.priors.values()]
        if stages is not None and not names:
            raise ValueError(f"stages={list(stages)}: name a stage that draws images, for instance {self.base}")
        return names

    def chosen_prior(self, prior: str | None) -> str:
        """A kind of prior, by default the model's first. Raises: ValueError for one that it has not or that is not trained."""
        kind = next(iter(self.priors), "text") if prior is None else prior
        if kind == "none" and not reads_text(self.stages[self.base]):
            raise ValueError("prior=none leaves the decoder the caption alone, and this decoder reads no caption")
        if kind in ("none", "text"):
            return kind
        if kind not in self.priors:
            raise ValueError(f"prior={kind}: this model has {', '.join(['none', 'text', *self.priors])}")
        if (refusal := self.sampling_refusal([self.priors[kind]])) is not None:
            raise ValueError(refusal.partition(", or")[0] + ", or draw with prior=text")
        return kind

    def image_fields(
        self,
        text: Batch,
        seeds: Sequence[int],
        prior: str | None = None,
        candidates: int | None = None,
        *,
        guidance_scale: dict[str, float] | None = None,
        num_steps: int | dict[str, int] | None = None,
        **options: Any,
    ) -> Batch:
        """`image_embeds` (n, E) for captions, and where some of them are to be left out, `image_keep` (n,) bool."""
        kind, vector, keep = self.chosen_prior(prior), text["text_vector"], text["text_keep"]
        if kind == "none":
            return {"image_embeds": vector, "image_keep": torch.zeros_like(keep)}
        if kind == "text":
            return {"image_embeds": vector, "image_keep": keep}
        name = self.priors[kind]
        options["guidance_scale"] = (guidance_scale or {}).get(name)
        options["num_steps"] = num_steps.get(name) if isinstance(num_steps, dict) else num_steps
        options["weaker"] = None if self.weaker is None else self.weaker.stages[name]
        drawn = torch.stack([
            self.stages[name].sample(text, seeds, f"{name}.{k}", device=self.device, **options)
            for k in range(candidates or self.candidates)
        ], 1)  # (n, candidates, E)  # fmt: skip
        closest = (drawn * vector[:, None]).sum(-1).argmax(1) * keep  # of an empty caption, the first
        return {"image_embeds": drawn[torch.arange(len(drawn), device=drawn.device), closest]}

    # ---- tasks that start from images ----

    def embedding_of(self, request: Request) -> Tensor:
        """CLIP's unit vectors (n, E) of `images`."""
        if request.images is None:
            raise ValueError("to embed an image, give it")
        return self.embedder.images(request.images.to(self.device))

    def captions_embedded(self, captions: Sequence[str]) -> Tensor:
        """CLIP's unit vectors (n, E) of captions."""
        return self.embedder.texts(captions, self.device)["text_vector"]

    @torch.no_grad()
    def noise_of(self, z: Tensor, request: Request, *, num_steps: int | None = None) -> Tensor:
        """The decoder's noise (n, C, s, s) from which `draw_embedded` with eta=0 comes back to `images`, as the decoder sees them.

        Source: Ramesh et al. 2022 (unCLIP), section 3; Song et al. 2021 (DDIM), eq. 14
        """
        stage = self.stages[self.base]
        x_0 = stage.space.encode({"image": request.images.to(self.device)})
        return ddim_invert(self._plain(z, request, 1.0), stage.schedule, x_0, num_steps=num_steps or INVERSION_STEPS)

    @torch.no_grad()
    def draw_embedded(
        self,
        z: Tensor,
        request: Request,
        *,
        seeds: Sequence[int],
        x_T: Tensor | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        num_steps: int | None = None,
        stages: Sequence[str] | None = None,
    ) -> Tensor:
        """Images (n, C, S, S) in [-1, 1] of embeddings z (n, E), with the request's prompts where there are any.

        Args:
            seeds: of the noise, the upsamplers' too.
            x_T: the decoder's noise (n, C, s, s), as of `noise_of`; None draws as `sample` does.
            eta: with x_T, how much new noise DDIM adds on the way; 0, the default, adds none.
            guidance_scale: of the decoder; with x_T, 1 where none is given.
            num_steps: of the decoder; with x_T, 100 where none are given.
            stages: as of `sample`; the decoder is one of them.
        """
        names = self.drawing(stages)
        if self.base not in names:
            raise ValueError(f"stages={list(stages or ())}: this task draws with the stage {self.base!r}: name it first")
        self.check_sampling(names, request, seeds)
        fields = self.request_fields(request) | {"image_embeds": z}
        if x_T is None:
            if eta is not None:
                raise ValueError(f"eta={eta}: new noise has no way back to leave; it goes with the noise of an image")
            return self.through(names, fields, seeds, guidance_scale=guidance_scale, num_steps={self.base: num_steps})
        stage = self.stages[self.base]
        denoise = self._plain(z, request, 1.0 if guidance_scale is None else guidance_scale)
        x_0 = ddim(
            denoise, stage.schedule, x_T, num_steps=num_steps or INVERSION_STEPS, eta=eta or 0.0,
            generator=keyed_generators(seeds, self.base, "variation"),
        )  # fmt: skip
        image = stage.space.decode(x_0)
        return self.through(names[1:], {}, seeds, image) if names[1:] else image

    def _plain(self, z: Tensor, request: Request, guidance_scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The decoder without a threshold, so that inversion and drawing are each other's opposite."""
        batch = {"seed": torch.zeros(request.n, dtype=torch.int64)} | self.request_fields(request) | {"image_embeds": z}
        return self.stages[self.base].guided(batch, guidance_scale=guidance_scale, threshold="none")


def reads_text(stage: DiffusionStage) -> bool:
    """Whether a stage is told a caption."""
    return any(conditioner.reads == "text" for conditioner in stage.conditioners.values())


def kind_of(stage: DiffusionStage | AutoregressivePrior) -> str:
    """The kind of a prior."""
    return "autoregressive" if isinstance(stage, AutoregressivePrior) else "diffusion"
