"""A CLIP of this repository as a judge: its features, its captions, the sizes that it reads, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.extractors.trained_clip import TrainedCLIP
from evaluation.metrics.base import NotComputed
from evaluation.metrics.frechet import FrechetDistance
from tests.evaluation.pixel_features import images


class Tokens:
    def truncated(self, captions) -> list[bool]:
        return [len(c) > 5 for c in captions]


class Small(nn.Module):
    """What a trained CLIP offers; a caption's vector holds its length."""

    channels, image_size, tokenizer = 3, 4, Tokens()

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[1:] == (3, 4, 4) and -1 <= image.min() and image.max() <= 1
        return image.flatten(1)

    def embed_text(self, captions) -> torch.Tensor:
        self.asked += captions
        return torch.tensor([[float(len(c)), 1.0] for c in captions])

    def pair_loss(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return image.sum()


def judge(module: nn.Module | None = None, **kwargs) -> TrainedCLIP:
    return TrainedCLIP(lambda ckpt: (module or Small(), None, {"sha256": "ab" * 32}), "zoo/own", **kwargs)


def test_features_are_those_of_the_image_tower_and_larger_images_are_averaged_down() -> None:
    extractor, small = judge(), images(3, 0)
    torch.testing.assert_close(extractor(small), small.flatten(1).float() / 127.5 - 1)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    large[:, :, ::2] = (large[:, :, ::2].int() - 3).clamp(min=0).to(torch.uint8)
    wanted = torch.nn.functional.avg_pool2d(large.float() / 127.5 - 1, 2).flatten(1)
    torch.testing.assert_close(extractor(large), wanted)
    assert extractor.describe()["resize"] == "average of blocks (8, 8) -> 4"
    grey = extractor(images(2, 1)[:, :1])
    assert grey.shape == (2, 48) and torch.equal(grey[:, :16], grey[:, 16:32])
    for wrong in (images(1, 0, side=6), images(1, 0, side=8)[..., :4]):
        with pytest.raises(NotComputed, match="reads square images of 4 pixels"):
            extractor(wrong)


def test_captions_are_embedded_once_in_the_order_asked() -> None:
    module = Small()
    extractor = judge(module)
    found = extractor.text(["aa", "b", "aa"])
    assert found[:, 0].tolist() == [2.0, 1.0, 2.0] and module.asked == ["aa", "b"]
    extractor.text(["b", "cccc"])
    assert module.asked == ["aa", "b", "cccc"]
    assert extractor.truncated(["short", "longer"]) == [False, True]


def test_it_names_itself_and_the_data_that_it_knows() -> None:
    extractor = judge()
    distance = FrechetDistance(extractor)
    assert distance.name == "fd_clip_scenes" and distance.needs == {"reference", "specs"} and extractor.suffix == "_scenes"
    extractor.text(["a"])
    assert extractor.describe()["model"] == "own" and extractor.describe()["extractor_sha256"] == "ab" * 32
    assert judge(needs=(), id="clip_emoji", suffix="_emoji").needs == frozenset()


def test_what_is_not_there_or_no_clip_is_not_computed() -> None:
    def missing(ckpt: str) -> None:
        raise FileNotFoundError(f"ckpt={ckpt}: no such file")

    with pytest.raises(NotComputed, match="cannot be had: ckpt=nowhere: no such file"):
        TrainedCLIP(missing, "nowhere").text(["a"])
    with pytest.raises(NotComputed, match="is no CLIP: train one with model=clip"):
        judge(nn.Identity())(images(1, 0))
