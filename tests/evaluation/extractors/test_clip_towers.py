"""Both towers of a CLIP model: embeddings as open_clip gives them, captions once, refusals at once."""

from __future__ import annotations

import time
from pathlib import Path

import open_clip
import pytest
import torch

from evaluation.extractors import clip_towers
from evaluation.extractors.clip_towers import CLIP
from evaluation.extractors.open_clip import OpenCLIP
from evaluation.metrics.base import NotComputed
from tests.evaluation.tiny_clip import CAPTIONS, NAME, TAG, images


def test_embeddings_are_open_clips(clip: CLIP, weights: Path) -> None:
    model = open_clip.create_model(NAME, pretrained=str(weights)).eval()
    image_u8, captions = images(3), CAPTIONS[:3]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    with torch.no_grad():
        image = model.encode_image((image_u8.float() / 255 - mean) / std)
        text = model.encode_text(open_clip.get_tokenizer(NAME)(captions))
    assert torch.allclose(clip(image_u8), image, atol=1e-5) and torch.allclose(clip.text(captions), text, atol=1e-5)


def test_image_features_are_those_of_the_extractor(clip: CLIP, weights: Path) -> None:
    """One cache entry serves `fd_clip_…` and the CLIP score."""
    extractor = OpenCLIP(NAME, TAG, weights=str(weights))
    assert torch.equal(extractor(images(3)), clip(images(3))) and extractor.key(32, 32) == clip.key(32, 32)


def test_captions_longer_than_the_model_reads_are_known_and_their_end_changes_nothing(clip: CLIP) -> None:
    long = "a red circle above " * 30
    captions = ["a red circle", long, "word " * 75, "word " * 76]
    assert clip.truncated(captions) == [False, True, False, True]  # 75 words and two marks fill 77 places
    assert torch.equal(*clip.text([long + "x", long + "y"]))


def test_captions_are_embedded_once_and_alone(clip: CLIP) -> None:
    together = clip.text(CAPTIONS[:40])
    other = CLIP(NAME, TAG, weights=clip.weights)
    assert torch.equal(torch.stack([other.text([c])[0] for c in CAPTIONS[:40]]), together)
    calls = []
    tower = clip_towers.text_tower(NAME, str(clip._path), False)[1]
    tower.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(clip.text(CAPTIONS[:40]), together) and not calls


def test_a_tokenizer_that_would_be_fetched_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as on a user's machine that is merely without network
    began = time.monotonic()
    with clip_towers.without_hub(), pytest.raises(Exception):
        open_clip.get_tokenizer("ViT-B-16-SigLIP")
    assert time.monotonic() - began < 20, "importing transformers takes seconds, retrying takes 46 of them"
    assert constants.HF_HUB_OFFLINE is False


def test_a_damaged_file_is_named(weights: Path) -> None:
    weights.write_bytes(b"nonsense" * 100)
    with pytest.raises(NotComputed, match="tiny.pt cannot be read as open_clip's tiny-test") as error:
        CLIP(NAME, TAG, weights=str(weights)).text(["x"])
    assert "\n" not in str(error.value)


def test_what_is_asked_of_the_hub_is_allowed_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(KeyError), clip_towers.without_hub():
        assert constants.HF_HUB_OFFLINE is True
        raise KeyError
    assert constants.HF_HUB_OFFLINE is False


def test_missing_weights_are_asked_for_under_the_models_own_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.extractors.open_clip.hub_cached", lambda repo, names: None)
    with pytest.raises(NotComputed, match=r"pass clip\.weights=FILE, or allow the download with clip\.allow_download=true"):
        CLIP(NAME, TAG).text(["x"])
