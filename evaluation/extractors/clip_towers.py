"""Both towers of a CLIP model, as far as metrics need them: image features, caption features, truncated captions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.extractors.base import BLOCK, Frozen
from evaluation.extractors.open_clip import OpenCLIP
from evaluation.extractors.weights import first_line
from evaluation.metrics.base import NotComputed


class CLIP(OpenCLIP):
    """An open_clip model by name and weights; images as in `OpenCLIP`, whose cache it shares, and captions.

    Any object with `__call__(image_u8)`, `text(captions)`, `truncated(captions)`, `describe()`, `needs` and a `suffix` of
    the metrics' names can take its place in the metrics of evaluation.metrics.clip_score.

    Args: see OpenCLIP.
    Source: Radford et al. 2021; Cherti et al. 2022 (OpenCLIP).
    """

    suffix = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known: dict[str, Tensor] = {}

    def text(self, captions: Sequence[str]) -> Tensor:
        """Caption embeddings (B, D), float32, not normalised; each caption is computed once.

        Raises: NotComputed without weights or tokenizer, in one line and without waiting for a network.
        """
        tokenizer, tower = self._text_tower()
        fresh = [c for c in dict.fromkeys(captions) if c not in self._known]
        for start in range(0, len(fresh), BLOCK):
            part = fresh[start : start + BLOCK]
            # Filled up, because another batch size may round differently.
            tokens = tokenizer(part + part[-1:] * (BLOCK - len(part)))
            with torch.no_grad():
                self._known |= zip(part, tower(tokens)[: len(part)].float())
        return torch.stack([self._known[c] for c in captions])

    def truncated(self, captions: Sequence[str]) -> list[bool]:
        """Which captions are longer than the model reads: their end changes nothing."""
        tokenizer, _ = self._text_tower()
        return [num_tokens(tokenizer, c) > tokenizer.context_length for c in captions]

    def describe(self) -> dict[str, Any]:
        """Model, checksum of its weights and resize rule, as they go on the card."""
        return super().describe() | {"model": f"open_clip {self.model}/{self.pretrained}"}

    def _text_tower(self) -> tuple[Any, nn.Module]:
        if self._sha256 is None:
            self._sha256 = self._locate()
        return text_tower(self.model, str(self._path), bool(self._tag().get("quick_gelu")))

    def _locate(self) -> str:
        try:
            return super()._locate()
        except NotComputed as error:  # the name that this model has in conf/evaluator/
            raise NotComputed(str(error).replace("extractor.", "clip.")) from None


@functools.lru_cache(maxsize=1)
def text_tower(model: str, path: str, quick_gelu: bool) -> tuple[Any, nn.Module]:
    """Tokenizer and frozen text tower of a checkpoint file, shared by the metrics of one run.

    Raises: NotComputed for a file that does not fit, or a tokenizer that would have to be fetched.
    """
    import open_clip

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with without_hub():
            whole = open_clip.create_model(
                model, pretrained=path, precision="fp32", weights_only=True, force_quick_gelu=quick_gelu
            )
            tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # a damaged file can raise nearly anything
        reason = first_line(error)
        raise NotComputed(f"{path} cannot be read as open_clip's {model} with its tokenizer: {reason}") from None
    finally:
        logging.root.setLevel(level)
    return tokenizer, Frozen(TextTower(whole))


class TextTower(nn.Module):
    """`encode_text` of a CLIP model as its forward pass, without the image half."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        whole.visual = None
        self.whole = whole

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 (B, L) -> (B, D)."""
        return self.whole.encode_text(tokens)


@contextmanager
def without_hub() -> Iterator[None]:
    """Nothing is asked of the Hugging Face hub inside, whose client would retry for most of a minute."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def num_tokens(tokenizer: Any, caption: str) -> int:
    """Tokens of a caption with its marks of begin and end, before anything is cut."""
    if hasattr(tokenizer, "encode"):  # open_clip's own
        return len(tokenizer.encode(caption)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(caption))["input_ids"])
