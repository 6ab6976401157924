"""A small integer random generator, so that a scene is the same on every machine and with every numpy version."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_MASK = (1 << 64) - 1


def stable_hash(*keys: object) -> int:
    """A 64-bit integer that depends on the text of the keys only (unlike `hash`, equal in every process)."""
    return int.from_bytes(blake2b("|".join(map(str, keys)).encode(), digest_size=8).digest(), "big")


class Rng:
    """splitmix64 seeded by the hash of its keys. Source: Steele et al. 2014, figure 17."""

    def __init__(self, *keys: object) -> None:
        self.state = stable_hash(*keys)

    def next(self) -> int:
        """The next 64 random bits."""
        self.state = z = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return self.next() % n

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high), made of 53 random bits."""
        return low + (high - low) * ((self.next() >> 11) * 2.0**-53)

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[self.next() % len(items)]
