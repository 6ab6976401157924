"""A trained CLIP that another model reads and never changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import Batch, EmbedsImages, EmbedsTexts, EmbedsTokens
from lightning_modules.spaces import reduce


class FrozenCLIP:
    """Embeddings of images and captions by a trained CLIP.

    It is loaded with the first use and is no part of a module tree: a checkpoint holds its checksum, not its weights.

    Args:
        ckpt: a run, checkpoint or name in zoo/ of model=clip; or what `load` takes.
        load: ckpt -> (module, its configuration, facts with a `sha256`).
        embed_dim: width of its embeddings.
        token_dim: width of a caption's tokens.
        image_size: of the images that it reads; larger ones are averaged down, and smaller ones refused.
        tower: a model by name in place of `ckpt` and `load`, for instance `networks.clip_by_name.OpenCLIPTowers`.
    Raises: ValueError without a CLIP.
    """

    def __init__(
        self,
        embed_dim: int,
        token_dim: int,
        image_size: int,
        ckpt: str | None = None,
        load: Callable[[str], tuple[Any, Any, dict[str, Any]]] | None = None,
        tower: torch.nn.Module | None = None,
    ) -> None:
        if tower is None and (ckpt is None or load is None):
            raise ValueError("this model needs a trained CLIP: give clip.ckpt=RUN, a run of model=clip, or clip=open_clip")
        self.embed_dim, self.token_dim, self.image_size = embed_dim, token_dim, image_size
        self.ckpt, self.load, self._tower = ckpt, load, tower
        self._loaded: tuple[Any, str] | None = None
        self._device = torch.device("cpu")

    @property
    def name(self) -> str:
        """Where it comes from, for messages."""
        return str(self.ckpt) if self._tower is None else str(self._tower.name)

    @property
    def identity(self) -> str:
        """Checksum of its weights."""
        return self.model()[1]

    def model(self, device: torch.device | str = "cpu") -> tuple[Any, str]:
        """The model on a device, and its checksum.

        Raises: FileNotFoundError where it is not there; ValueError for a model that is no CLIP, or one of other sizes.
        """
        if self._loaded is None:
            self._loaded = self._found()
        if self._device != torch.device(device):
            self._device = torch.device(device)
            self._loaded = self._loaded[0].to(self._device), self._loaded[1]
        return self._loaded

    def _found(self) -> tuple[Any, str]:
        if self._tower is not None:
            model, sha256 = self._tower, self._tower.identity
        else:
            try:
                model, _, facts = self.load(self.ckpt)
            except FileNotFoundError as error:
                raise FileNotFoundError(f"the CLIP of this model is not there (clip.ckpt=RUN names another): {error}") from None
            sha256 = facts["sha256"]
        for kind in (EmbedsImages, EmbedsTexts, EmbedsTokens):
            if not isinstance(model, kind):
                raise ValueError(f"clip.ckpt={self.name}: {type(model).__name__} is no CLIP; a run of model=clip is")
        model = model.eval().requires_grad_(False)
        if model.image_size != self.image_size:
            raise ValueError(f"clip.image_size={self.image_size}: {self.name} reads images of {model.image_size} pixels")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            vector, tokens, _ = model.embed_tokens(["a"])
        for setting, given, found in (("embed_dim", self.embed_dim, vector), ("token_dim", self.token_dim, tokens)):
            if found.shape[-1] != given:
                raise ValueError(f"clip.{setting}={given}: {self.name} has {found.shape[-1]}")
        return model, sha256

    @torch.no_grad()
    def images(self, image: Tensor) -> Tensor:
        """Unit vectors (B, embed_dim), float32, of images (B, C, S, S) in [-1, 1]; S at least `image_size`.

        Raises: ValueError for smaller ones.
        """
        size = image.shape[-1]
        if size < self.image_size:
            raise ValueError(f"{self.name} reads images of {self.image_size} pixels, and these have {size}: choose a larger "
                             "data.image_size or another CLIP")  # fmt: skip
        model, _ = self.model(image.device)
        with torch.autocast(image.device.type, enabled=False):
            if size % self.image_size:  # no whole blocks to average
                image = F.interpolate(image.float(), (self.image_size,) * 2, mode="bilinear", antialias=True)
            return model.embed_image(reduce(image.float(), self.image_size))

    @torch.no_grad()
    def texts(self, captions: Sequence[str], device: torch.device | str = "cpu") -> Batch:
        """What is known of captions: `text_vector` (B, embed_dim) of unit length, `text_embeds` (B, L, token_dim), `text_mask`
        (B, L) bool, and `text_keep` (B,) bool, False for a caption without a word."""
        model, _ = self.model(device)
        with torch.autocast(torch.device(device).type, enabled=False):
            vector, tokens, mask = model.embed_tokens(list(captions))
        keep = torch.tensor([bool(caption.strip()) for caption in captions], device=device)
        return {"text_vector": vector, "text_embeds": tokens, "text_mask": mask, "text_keep": keep}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises ValueError for a prompt longer than it reads."""
        for prompt, cut in zip(prompts, self.model(self._device)[0].truncated(list(prompts))):
            if cut:
                raise ValueError(f"the prompt {prompt[:60]!r} is longer than the text tower of {self.name} reads: shorten it")
