"""A CLIP model of a few thousand weights, random, saved where the real one's file would be."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import pretrained as tags
from torch import Tensor

NAME, TAG = "tiny-test", "random"
CAPTIONS = [f"number {i} of some pictures" for i in range(130)]
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> Path:
    """Makes open_clip know the model under (NAME, TAG), and returns its weights' file."""
    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    known = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "hf_hub": "nobody/tiny-test/"}
    monkeypatch.setitem(tags._PRETRAINED, NAME, {TAG: known})
    torch.manual_seed(seed)
    model = open_clip.create_model(NAME, pretrained=None)
    for parameter in model.transformer.parameters():  # as initialised, all captions are nearly one
        parameter.data += 0.3 * torch.randn_like(parameter)
    path = folder / "tiny.pt"
    torch.save(model.state_dict(), path)
    return path


def images(n: int, seed: int = 0, size: int = 32) -> Tensor:
    """uint8 (n, 3, size, size): flat colours with noise, so that random nets tell them apart."""
    g = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (n, 3, 1, 1), generator=g)
    return (colours + torch.randint(-40, 40, (n, 3, size, size), generator=g)).clamp(0, 255).to(torch.uint8)
