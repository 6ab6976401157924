"""Imagen: a frozen text encoder and a cascade of text-conditional diffusion models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from contracts import Batch, Request
from lightning_modules.cascade import Cascade
from lightning_modules.stage import DiffusionStage


class Imagen(Cascade):
    """P(image | text) by a base diffusion model and super-resolution diffusion models above it.

    Args:
        text_encoder: a frozen ``TextEncoder``; kept out of the module tree, so never in a checkpoint.
        stages: name -> ``DiffusionStage``, in the order in which they are sampled.
        example_prompts: prompts of the sample grids; None leaves them to the data.
        **kwargs: ``train_stages``, optimiser, schedule and clipping, see ``Cascade``.

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
        example_prompts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(stages, **kwargs)
        self.example_prompts = list(example_prompts or ())
        self.text_encoder = text_encoder

    # ---- text ----

    def fields(self, batch: Batch) -> Batch:
        """The batch with the embeddings of its captions; those that the data brings are taken as they are."""
        if "text_embeds" not in batch:
            return batch | self.embed(batch["caption"])
        return batch | {"text_keep": self.filled(batch["caption"])} if "caption" in batch else batch

    def request_fields(self, request: Request) -> Batch:
        """The prompts and their embeddings."""
        if request.texts is None:
            raise ValueError("this model draws from prompts: give one per image, an empty one for an unconditional image")
        return {"caption": list(request.texts)} | self.embed(request.texts)

    def embed(self, captions: Sequence[str]) -> Batch:
        """`text_embeds` (B, L, D), `text_mask` (B, L) bool and `text_keep` (B,) bool, False for an empty caption."""
        if self.text_encoder.device != self.device:  # no part of the module: Lightning does not move it
            self.text_encoder.to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # embeddings, and their cache, are of full precision
            encoded = self.text_encoder.encode(list(captions)).to(self.device)
        return {"text_embeds": encoded.embeds, "text_mask": encoded.mask, "text_keep": self.filled(captions)}

    def filled(self, captions: Sequence[str]) -> torch.Tensor:
        """(B,) bool, False for captions without a word."""
        return torch.tensor([bool(c.strip()) for c in captions], device=self.device)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for a prompt longer than the encoder reads."""
        self.text_encoder.check_length(list(prompts), strict=True)

    def example_request(self) -> Request:
        """The example prompts, or nothing where they are left to the data."""
        return Request(len(self.example_prompts), texts=self.example_prompts)

    # ---- checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["text_encoder"] = encoder_identity(self.text_encoder)

    def check_identity(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError if the checkpoint was trained with another text encoder, or over another frozen model."""
        super().check_identity(checkpoint)
        trained, here = checkpoint.get("text_encoder"), encoder_identity(self.text_encoder)
        if trained is not None and dict(trained) != here:
            raise ValueError(
                f"the checkpoint was trained with text encoder {trained['id']} ({trained['revision']}), this run has "
                f"{here['id']} ({here['revision']}): set text_encoder to the first"
            )


def encoder_identity(encoder: Any) -> dict[str, str]:
    """What makes two encoders the same, in plain strings."""
    return {"id": encoder.id, "revision": encoder.revision}
