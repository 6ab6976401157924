"""A random order of any length that is computed place by place and stored nowhere."""

from __future__ import annotations

import torch
from torch import Tensor

from rng.hashing import stable_hash
from rng.splitmix import mix

ROUNDS = 6


def permuted(places: Tensor, length: int, *key: int | str) -> Tensor:
    """What stands at some places of a random order of 0 … length - 1; all places together hold every number once.

    A Feistel network permutes the numbers below the next power of four; what falls outside goes round again, fewer than four times
    on average. The time depends on the number of places, the memory too, and neither on the length.

    Args:
        places: (N,) int64 from 0 to length - 1.
        length: of the order, at most 2**62.
        key: which order.

    Raises: ValueError for a length or a place out of range.
    Source: Luby & Rackoff 1988 (permutations from Feistel networks); Black & Rogaway 2002 (cycle walking)
    """
    if not 0 < length <= 2**62:
        raise ValueError(f"an order of {length} numbers: at least 1 and at most 2**62")
    if len(places) and not (0 <= int(places.min()) and int(places.max()) < length):
        raise ValueError(f"places {int(places.min())} to {int(places.max())} of an order of {length} numbers")
    half = max(1, -(-(length - 1).bit_length() // 2))  # bits of each half
    keys = [stable_hash("permutation", turn, *key) for turn in range(ROUNDS)]
    found = _network(places, half, keys)
    outside = found >= length
    while outside.any():
        found[outside] = _network(found[outside], half, keys)
        outside = found >= length
    return found


def _network(x: Tensor, half: int, keys: list[int]) -> Tensor:
    """A bijection of the numbers below 4**half."""
    low = (1 << half) - 1
    left, right = x >> half, x & low
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & low)
    return left << half | right
