"""A CLIP that this repository trained, as a judge of the kind of pictures it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contracts import EmbedsImages, EmbedsTexts
from evaluation.extractors.base import BLOCK, FeatureExtractor
from evaluation.metrics.base import NotComputed


class TrainedCLIP(FeatureExtractor):
    """Both towers of a model of `model=clip`: image features for distances, and captions for the CLIP score.

    A generator must not be judged by the CLIP that it was trained or guided with. Larger images are averaged down to the
    size that the model reads.

    Args:
        load: gives the module, its configuration, and facts with the checkpoint's `sha256`; called on first use.
        ckpt: a run, a checkpoint or a name in zoo/, handed to `load`.
        id: names the features, as in `fd_<id>`.
        suffix: of the metrics of evaluation.metrics.clip_score, so that no score passes for another model's.
        needs: what tells data that the model knows, as `Evaluator.needs`; specs, for captioned scenes.
        cache_dir: folder that keeps features between runs.
    """

    def __init__(
        self, load: Callable[[str], tuple[Any, Any, dict[str, Any]]], ckpt: str, id: str = "clip_scenes", suffix: str = "_scenes",
        needs: Sequence[str] = ("specs",), cache_dir: str | Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__(cache_dir)
        self.id, self.suffix, self.needs, self.ckpt, self._open = id, suffix, frozenset(needs), ckpt, load
        self._module: Any = None
        self._known: dict[str, Tensor] = {}

    def text(self, captions: Sequence[str]) -> Tensor:
        """Caption embeddings (B, E), float32, of unit length; each caption is computed once. Raises: NotComputed."""
        module = self._read()
        fresh = [c for c in dict.fromkeys(captions) if c not in self._known]
        for start in range(0, len(fresh), BLOCK):
            part = fresh[start : start + BLOCK]
            self._known |= zip(part, module.embed_text(part).float().cpu())
        return torch.stack([self._known[c] for c in captions])

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads: their end changes nothing."""
        return self._read().tokenizer.truncated(captions)

    def describe(self) -> dict[str, Any]:
        """Model, checksum of its weights and resize rule, as they go on the card."""
        return super().describe() | {"model": Path(self.ckpt).name}

    def resize_rule(self, height: int, width: int) -> str:
        side = self._read().image_size
        if height != width or height % side:
            raise NotComputed(f"{self.id} reads square images of {side} pixels or a multiple of it, not {height} x {width}")
        return f"none ({height}, {width})" if height == side else f"average of blocks ({height}, {width}) -> {side}"

    def _read(self) -> Any:
        if self._sha256 is None:
            self._sha256 = self._locate()
        return self._module

    def _locate(self) -> str:
        try:
            module, _, facts = self._open(self.ckpt)
        except (FileNotFoundError, ValueError) as error:
            raise NotComputed(f"{self.id} cannot be had: {error}") from None
        if not (isinstance(module, EmbedsImages) and isinstance(module, EmbedsTexts)):
            raise NotComputed(f"{self.ckpt} is no CLIP: train one with model=clip")
        self._module = module.eval()
        return facts["sha256"]

    def _load(self) -> nn.Module:
        return self._module

    def _features(self, net: nn.Module, image_u8: Tensor) -> Tensor:
        module = net.net  # net is the frozen wrapper
        image = image_u8[:, : module.channels].float() / 127.5 - 1
        return module.embed_image(F.avg_pool2d(image, image.shape[-1] // module.image_size))  # (B, E)
