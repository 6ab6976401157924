"""SplitMix64 for whole batches: each row of numbers depends on its own key alone.

A 64-bit word is an int64: torch adds and multiplies modulo 2^64, and only the shift to the right needs a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor


def signed(word: int) -> int:
    """The int64 with the bits of a number from 0 to 2^64 - 1."""
    return word - 2**64 if word >= 2**63 else word


GAMMA = signed(0x9E3779B97F4A7C15)


def streams(starts: Tensor, count: int) -> Tensor:
    """The first `count` outputs (B, count) of the generators SplitMix64 that start at int64 (B,).

    Source: Steele, Lea and Flood 2014 (SplitMix), figure 15
    """
    return mix(starts[:, None] + GAMMA * torch.arange(1, count + 1))


def mix(z: Tensor) -> Tensor:
    """An int64 tensor with its bits mixed: another word for each word, and no two words get the same."""
    z = (z ^ _right(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ _right(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ _right(z, 31)


def uniform(words: Tensor) -> Tensor:
    """float64 in [0, 1) from the upper 53 bits of int64 words."""
    return _right(words, 11).double() * 2.0**-53


def _right(z: Tensor, count: int) -> Tensor:
    """Shift to the right with zeros, as for unsigned words."""
    return (z >> count) & ((1 << (64 - count)) - 1)
