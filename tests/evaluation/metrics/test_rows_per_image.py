"""Rows: index order from any order, one row per image."""

from __future__ import annotations

import pickle

import pytest
import torch

from evaluation.metrics.rows_per_image import Rows


def made(indices: list[int]) -> Rows:
    rows = Rows()
    rows.add(indices, score=torch.tensor(indices).float() / 10, name=[f"image {i}" for i in indices])
    return rows


def test_columns_come_in_index_order_whatever_the_order_of_batches_and_processes() -> None:
    rows = made([4, 0])
    rows.add([2], score=torch.tensor([0.2]), name=["image 2"])
    whole = Rows.merged([pickle.loads(pickle.dumps(rows)), made([3, 1]), Rows()])
    assert whole.indices == [0, 1, 2, 3, 4] and len(whole) == 5
    assert whole.column("score").tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert whole.column("name") == [f"image {i}" for i in range(5)]
    assert list(whole.next(2)) == [5, 6]


def test_an_image_that_comes_twice_is_refused() -> None:
    """401 images on two processes: a sampler that pads has 402, and the distance moves from 3.142 to 3.135."""
    padded = [list(range(0, 401, 2)), [*range(1, 401, 2), 0]]
    with pytest.raises(ValueError, match="image 0 came twice .* padded"):
        Rows.merged([made(part) for part in padded])
    rows = made([1])
    with pytest.raises(ValueError, match="image 1 came twice"):
        rows.add([1], score=torch.ones(1), name=["x"])
    with pytest.raises(ValueError, match="image 7 came twice"):
        made([7, 7])


def test_wrong_columns_are_refused() -> None:
    rows = made([0])
    with pytest.raises(ValueError, match="2 images, but 1 score"):
        rows.add([1, 2], score=torch.ones(1), name=["a", "b"])
    with pytest.raises(ValueError, match="earlier rows have"):
        rows.add([1], score=torch.ones(1))
    with pytest.raises(KeyError, match="there are score, name"):
        rows.column("nothing")


def test_numbering_goes_on_after_the_largest_number() -> None:
    rows = made([5])
    assert list(rows.next(2)) == [6, 7] and list(Rows().next(2)) == [0, 1]


def test_rows_keep_values_and_no_graph() -> None:
    rows, score = Rows(), torch.ones(2, requires_grad=True)
    rows.add([0, 1], score=2 * score)
    assert not rows.column("score").requires_grad and rows.column("score").tolist() == [2, 2]
