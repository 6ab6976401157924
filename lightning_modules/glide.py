"""GLIDE: a cascade of diffusion models, each with a text transformer of its own that learns with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from contracts import Batch, Request
from lightning_modules.base import matrices_and_rest
from lightning_modules.cascade import Cascade
from lightning_modules.stage import DiffusionStage
from networks.caption_conditioner import CaptionConditioner


class Glide(Cascade):
    """P(image | caption) by a base diffusion model and upsampling diffusion models above it.

    Args:
        stages: name -> ``DiffusionStage`` with a ``CaptionConditioner``, in the order in which they are sampled.
        example_prompts: prompts of the sample grids; None leaves them to the data.
        **kwargs: ``train_stages``, optimiser, schedule and clipping, see ``Cascade``.

    Raises:
        ValueError: for unknown stage names or stages whose sizes do not fit together.

    Source: Nichol et al. 2022, "GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models".
    """

    conditioning = "text"

    def __init__(self, stages: dict[str, DiffusionStage], *, example_prompts: Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(stages, **kwargs)
        self.example_prompts = list(example_prompts or ())
        self._warned = False

    def fields(self, batch: Batch) -> Batch:
        """The batch as it is; a caption that is cut is told once. Raises: ValueError for a batch without captions."""
        if "caption" not in batch:
            raise ValueError("GLIDE learns from captions: choose data with captions, as data=scenes or data=captions")
        if not self._warned and self.global_rank == 0 and (found := self.cut(batch["caption"])) is not None:
            self._warned = True
            print(f"warning: captions are cut after {found[1]} tokens, for instance {found[0][:60]!r}: "
                  "raise context_length of the conditioners", flush=True)  # fmt: skip
        return batch

    def request_fields(self, request: Request) -> Batch:
        """The prompts as captions."""
        if request.texts is None:
            raise ValueError("this model draws from prompts: give one per image, an empty one for an unconditional image")
        return {"caption": list(request.texts)}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raise ValueError for a prompt longer than the model reads."""
        if (found := self.cut(prompts)) is not None:
            raise ValueError(f"the prompt {found[0][:60]!r} is longer than the {found[1]} tokens that the model reads: shorten it")

    def cut(self, captions: Sequence[str]) -> tuple[str, int] | None:
        """The first caption that some stage would cut, and after how many tokens; None if all are read whole."""
        for tokenizer in (c.tokenizer for c in self._readers()):
            if True in (which := tokenizer.truncated(captions)):
                return captions[which.index(True)], tokenizer.context_length
        return None

    def _readers(self) -> Iterable[CaptionConditioner]:
        return (c for stage in self.stages.values() for c in stage.conditioners.values() if isinstance(c, CaptionConditioner))

    def example_request(self) -> Request:
        """The example prompts, or nothing where they are left to the data."""
        return Request(len(self.example_prompts), texts=self.example_prompts)

    def param_groups(self) -> list[dict[str, Any]]:
        """Matrices, and apart from them the tables of tokens and places, which Muon would spoil."""
        return matrices_and_rest(self)
