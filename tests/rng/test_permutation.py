"""Orders without a table: every number once, different by key, the same on every machine, and random enough."""

from __future__ import annotations

import pytest
import torch

from rng.permutation import permuted


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_every_number_stands_at_one_place(length: int) -> None:
    order = permuted(torch.arange(length), length, "test", 0)
    assert torch.equal(order.sort().values, torch.arange(length))


def test_a_place_holds_the_same_whoever_asks() -> None:
    whole = permuted(torch.arange(3000), 3000, 7)
    some = torch.tensor([5, 2999, 0, 5])
    assert torch.equal(permuted(some, 3000, 7), whole[some])
    assert permuted(torch.empty(0, dtype=torch.int64), 3000, 7).shape == (0,)


def test_orders_are_frozen() -> None:
    # Runs over large data depend on these numbers: they may never change.
    assert permuted(torch.arange(5), 10**9, "order", 0, 0).tolist() == [114098103, 710567278, 780200287, 619458425, 20397598]


def test_another_key_is_another_order_and_neighbours_part() -> None:
    length = 4000
    orders = torch.stack([permuted(torch.arange(length), length, key) for key in range(20)]).double()
    correlation = torch.corrcoef(torch.cat([orders, torch.arange(length, dtype=torch.float64)[None]]))
    assert (correlation - torch.eye(21)).abs().max() < 5 / length**0.5, "orders of different keys are uncorrelated, and so is the order itself"
    steps = orders.diff(dim=1) % length  # of neighbours: uniform in a random order
    share = torch.histc(steps.flatten(), 8, 0, length) / steps.numel()
    assert (share - 1 / 8).abs().max() < 0.004
    first = torch.cat([permuted(torch.zeros(1, dtype=torch.int64), 8, key) for key in range(4000)]).bincount(minlength=8) / 4000
    assert (first - 1 / 8).abs().max() < 0.025, "every number comes first as often"


def test_a_billion_takes_no_memory_and_repeats_nothing() -> None:
    places = torch.randint(10**9, (100_000,), generator=torch.Generator().manual_seed(0)).unique()
    found = permuted(places, 10**9, "large")
    assert len(found.unique()) == len(places) and 0 <= found.min() and found.max() < 10**9
    assert abs(found.double().mean() / 10**9 - 0.5) < 0.005


@pytest.mark.parametrize(("places", "length"), [([0], 0), ([10], 10), ([-1], 10), ([0], 2**62 + 1)])
def test_what_is_out_of_range_is_refused(places: list[int], length: int) -> None:
    with pytest.raises(ValueError, match="an order of|of an order"):
        permuted(torch.tensor(places), length)
