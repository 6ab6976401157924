"""A pretrained CLIP by name: what open_clip's own towers say with the same weights, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F

from contracts import EmbedsImages, EmbedsTexts, EmbedsTokens
from lightning_modules.frozen_clip import FrozenCLIP
from networks import open_clip_towers
from networks.open_clip_towers import OpenCLIPTowers

TINY = {
    "embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip
CAPTIONS = ["a red circle", "", "two small blue squares"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip knows one more model, and the model with weights that are moved from their start."""
    config = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(config, "tiny", TINY)
    torch.manual_seed(3)
    model = open_clip.create_model("tiny").eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def test_it_says_what_open_clip_says_with_the_same_weights(tiny: Any, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "tiny.pt")
    towers = OpenCLIPTowers("tiny", str(tmp_path / "tiny.pt"))
    assert all(isinstance(towers, kind) for kind in (EmbedsImages, EmbedsTexts, EmbedsTokens)) and not list(towers.parameters())
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    mean, std = (torch.tensor(v)[:, None, None] for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    with torch.no_grad():
        torch.testing.assert_close(towers.embed_image(image), tiny.encode_image(((image + 1) / 2 - mean) / std, normalize=True), rtol=1e-4, atol=1e-5)
        texts = tiny.encode_text(open_clip.get_tokenizer("tiny")(CAPTIONS), normalize=True)
    vector, tokens, mask = towers.embed_tokens(CAPTIONS)
    for found in (vector, towers.embed_text(CAPTIONS)):
        torch.testing.assert_close(found, texts, rtol=1e-4, atol=1e-5)
    assert tokens.shape[2] == 32 and mask.sum(1).tolist() == [5, 2, 6]
    end = tokens[torch.arange(3), mask.sum(1) - 1] @ tiny.text_projection.detach()
    torch.testing.assert_close(F.normalize(end, dim=1), texts, rtol=1e-4, atol=1e-5)
    assert towers.identity.startswith("open_clip/tiny/tiny.pt ") and towers.truncated(["a", "word " * 90]) == [False, True]


def test_a_frozen_clip_takes_it_and_another_file_is_another_identity(tiny: Any, tmp_path: Path) -> None:
    for i in range(2):
        torch.save({k: v + i for k, v in tiny.state_dict().items()}, tmp_path / f"{i}.pt")
    first, second = (OpenCLIPTowers("tiny", str(tmp_path / f"{i}.pt")) for i in range(2))
    assert first.identity.split()[1] != second.identity.split()[1]
    clip = FrozenCLIP(embed_dim=16, token_dim=32, image_size=16, tower=first)
    assert clip.identity == first.identity and clip.images(torch.zeros(1, 3, 32, 32)).shape == (1, 16)
    with pytest.raises(ValueError, match="clip.embed_dim=8: open_clip/tiny/0.pt has 16"):
        FrozenCLIP(embed_dim=8, token_dim=32, image_size=16, tower=first).identity
    random = [OpenCLIPTowers("tiny", None).embed_text(["a"]) for _ in range(2)]
    assert torch.equal(*random) and OpenCLIPTowers("tiny", None).identity == "open_clip/tiny/random seed0"


def test_what_cannot_be_had_is_one_clear_line(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="open_clip has no model 'huge'"):
        OpenCLIPTowers("huge", None).net
    with pytest.raises(ValueError, match="'nowhere' is neither a file nor one of its tags"):
        OpenCLIPTowers("ViT-B-32", "nowhere").net
    (tmp_path / "bad.pt").write_text("no weights")
    with pytest.raises(FileNotFoundError, match="the CLIP open_clip/tiny/bad.pt: cannot load"):
        OpenCLIPTowers("tiny", str(tmp_path / "bad.pt")).net

    def away(name: str, pretrained: str) -> Path:
        raise FileNotFoundError("text encoder open_clip/x/y is not on this machine and cannot be downloaded (no network): download it")

    monkeypatch.setattr(open_clip_towers, "locate_checkpoint", away)
    with pytest.raises(FileNotFoundError, match=r"^the CLIP open_clip/x/y is not on this machine .*\(no network\): download it elsewhere and give clip.tower.pretrained=FILE, or clip=scenes$"):
        OpenCLIPTowers("ViT-B-32", "openai").identity
    with pytest.raises(ValueError, match="is read, not trained"):
        OpenCLIPTowers("tiny", None).pair_loss(torch.zeros(1), torch.zeros(1))
