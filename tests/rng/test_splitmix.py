"""SplitMix64 on int64 tensors: the numbers of its authors, and words without a sign."""

from __future__ import annotations

import torch

from rng.splitmix import mix, streams, uniform


def test_streams_are_splitmix64() -> None:
    """The first outputs from 1234567 as its authors' C program prints them."""
    found = streams(torch.tensor([1234567]), 3)[0].tolist()
    assert [word % 2**64 for word in found] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_words_are_mixed_as_unsigned_ones() -> None:
    """Against whole numbers of Python, which have no sign bit to move in."""
    mask = 2**64 - 1

    def mixed(z: int) -> int:
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return z ^ z >> 31

    words = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 1234567, -987654321])
    assert [word % 2**64 for word in mix(words).tolist()] == [mixed(word % 2**64) for word in words.tolist()]


def test_a_row_is_of_its_own_start() -> None:
    whole = streams(torch.tensor([5, 6, 5]), 4)
    assert torch.equal(whole[0], whole[2]) and torch.equal(streams(torch.tensor([6]), 2), whole[1:2, :2])


def test_uniform_numbers() -> None:
    unit = uniform(streams(torch.arange(2000), 32))
    assert unit.dtype == torch.float64 and 0 <= unit.min() and unit.max() < 1
    assert abs(unit.mean() - 0.5) < 4.5 * 12**-0.5 / 64_000**0.5
    assert uniform(torch.tensor([-1, 0])).tolist() == [1 - 2.0**-53, 0.0]
