"""Requests: what is asked for, image by image."""

from __future__ import annotations

import pytest
import torch

from contracts import HasLatents, Reconstructs, Request, label_tensor, model_range
from datamodules.base import to_model_range


def test_a_request_can_be_taken_apart() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2)
    request = Request(3, texts=["a", "b", ""], labels=[4, None, 6], images=images)
    part = request.take([2, 0])
    assert part.n == 2 and part.texts == ["", "a"] and part.labels == [6, 4] and part.masks is None
    assert part.images[:, 0, 0, 0].tolist() == [2, 0]


def test_each_field_has_one_entry_per_image() -> None:
    with pytest.raises(ValueError, match="2 images has 1 texts"):
        Request(2, texts=["a"])
    with pytest.raises(ValueError, match="n=-1"):
        Request(-1)


def test_names_are_for_people() -> None:
    assert Request(2).names() is None
    assert Request(2, labels=[3, None]).names() == ["3", ""]
    assert Request(1, texts=["a cat"], labels=[3]).names() == ["a cat"]


def test_a_missing_class_is_not_kept() -> None:
    numbers, keep = label_tensor([3, None, 0])
    assert numbers.tolist() == [3, 0, 0] and keep.tolist() == [True, False, True]


def test_abilities_are_asked_for_by_what_a_module_has() -> None:
    class Copies:
        def reconstruct(self, batch):
            return batch["image"]

    assert isinstance(Copies(), Reconstructs) and not isinstance(Copies(), HasLatents)


def test_bytes_become_the_range_of_the_models_bit_for_bit_as_in_the_data() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    image = model_range(every)
    assert image.dtype == torch.float32 and image.min() == -1 and image.max() == 1 and every.max() == 255
    assert torch.equal(image[0], to_model_range(every[0, 0].numpy()))
    assert model_range(image) is image
