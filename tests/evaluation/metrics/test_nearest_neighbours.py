"""Nearest neighbours: exact, in order of distance, self left out."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics import nearest_neighbours as neighbours
from evaluation.metrics.nearest_neighbours import Space
from tests.evaluation.pixel_features import normal


@pytest.mark.parametrize("side", [1024, 32, 3])  # one tile, several, and fewer columns than candidates
def test_nearest_equals_plain_distances(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", side)
    a, b = normal(150, 200, 0, torch.float32) + 20, normal(170, 200, 1, torch.float32) + 20
    space = Space(a=a, b=b)
    whole = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances, indices = space.nearest("a", "b", 3)
    expected = whole.topk(3, largest=False)
    torch.testing.assert_close(distances, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices)
    own = torch.cdist(a.double(), a.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    torch.testing.assert_close(space.nearest("a", "a")[0], own.min(1, keepdim=True).values, rtol=1e-12, atol=0)
    distances, indices = space.nearest("a", "a", 3)
    expected = own.topk(3, largest=False)
    torch.testing.assert_close(distances, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(indices, expected.indices)


def test_a_copy_is_at_distance_zero_where_products_say_otherwise() -> None:
    base = normal(300, 1280, 0, torch.float32) + 5
    assert torch.cdist(base, base).diagonal().max() > 0.01  # what this file is there for
    distances, indices = Space(a=base[100:120].clone(), b=base).nearest("a", "b")
    assert distances.max() == 0 and indices.flatten().tolist() == list(range(100, 120))


def test_a_set_of_copies_has_neighbours_at_zero() -> None:
    assert Space(b=torch.ones(20, 4)).nearest("b", "b", 5)[0].max() == 0


def test_too_few_neighbours_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 nearest neighbours among 2 images"):
        Space(a=torch.rand(3, 2)).nearest("a", "a", 3)


@pytest.mark.parametrize("side", [1024, 7])
def test_the_first_of_equal_neighbours_is_taken(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", side)
    b = torch.cat([torch.full((3, 2), 9.0), torch.zeros(40, 2)])
    indices = Space(a=torch.zeros(2, 2), b=b).nearest("a", "b", 3)[1]
    assert indices.diff(dim=1).gt(0).all(), "ascending by index where distances are equal"
    few = torch.tensor([[5.0], [1.0], [1.0], [7.0], [1.0]])
    assert Space(a=torch.zeros(1, 1), b=few).nearest("a", "b", 4)[1].tolist() == [[1, 2, 4, 0]]


@pytest.mark.parametrize("side", [1024, 5])
def test_balls_are_counted_on_both_sides_with_their_edges_inside(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "TILE", side)
    a, b = (2 * normal(23, 3, 0)).round(), (2 * normal(17, 3, 1)).round()  # whole numbers: equal distances are equal
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    radii_a, radii_b = distances[:, 4].clone(), distances[6].clone()  # pairs that lie on the edge of a ball exactly
    counts = Space(a=a, b=b).inside("a", "b", radii_a, radii_b)
    within_b, within_a = distances <= radii_b, distances <= radii_a[:, None]
    for found, expected in zip(counts, (within_b.sum(1), within_b.sum(0), within_a.sum(0)), strict=True):
        assert torch.equal(found, expected)
    assert within_a[:, 4].all() and within_b[6].all()
