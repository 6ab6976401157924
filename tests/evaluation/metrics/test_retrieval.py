"""Recall against counting by hand, with ties at chance, and which pairs are distinct."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from evaluation.metrics.retrieval import classification, distinct, retrieval


def test_own_partners_first_is_all_and_a_guess_is_chance() -> None:
    unit = torch.eye(20)
    assert set(retrieval(unit, unit).values()) == {1.0, 0.05}
    same = torch.ones(20, 3)
    wanted = {f"{way}_r{k}": k / 20 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)} | {"chance_r1": 0.05}
    assert retrieval(same, same) == pytest.approx(wanted)


def test_recall_is_counted_by_direction() -> None:
    image, text = normalize(torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    text = normalize(text + 2 * image, dim=-1)
    found = retrieval(image, text)
    cosine = image @ text.T
    for k in (1, 5, 10):
        rows = sum(i in cosine[i].topk(k).indices.tolist() for i in range(40)) / 40
        columns = sum(i in cosine[:, i].topk(k).indices.tolist() for i in range(40)) / 40
        assert found[f"image_to_text_r{k}"] == pytest.approx(rows) and found[f"text_to_image_r{k}"] == pytest.approx(columns)
    assert found["image_to_text_r1"] != found["text_to_image_r1"]


def test_classification_is_the_share_whose_class_is_nearest_of_all_classes() -> None:
    classes = torch.eye(3)
    caption = ["a cat", "a dog", "a cat", "a bird"]
    text = classes[[0, 1, 0, 2]]
    image = classes[[0, 2, 0, 2]]  # the dog is taken for a bird
    assert classification(image, text, caption) == 0.75
    assert classification(torch.ones(4, 3) / 3**0.5, text, caption) == pytest.approx(1 / 3)  # as near to all three
    assert classification(image.flip(1), text, caption) == 0.0


def test_numbers_that_do_not_fit_are_refused() -> None:
    for n, m in ((1, 1), (3, 4)):
        with pytest.raises(ValueError, match=f"got {n} and {m}"):
            retrieval(torch.ones(n, 2), torch.ones(m, 2))


def test_the_first_of_equal_keys_counts() -> None:
    assert distinct(["a", "b", "a", "c", "b", "d"]).tolist() == [0, 1, 3, 5]
    assert distinct(["a", "b", "a", "c"], 2).tolist() == [0, 1] and distinct([]).tolist() == []
