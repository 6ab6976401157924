"""Numbers of a batch: each row from its own seed, the tags apart, and bytes that keep their ends."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules import keyed
from datamodules.keyed import bernoulli_u8, keyed_bits, streams


def test_a_row_is_of_its_seed_and_its_tag() -> None:
    seeds = np.array([5, 6, 5], dtype=np.uint64)
    found = keyed_bits(seeds, "flip", 4)
    assert found.shape == (3, 4) and np.array_equal(found[0], found[2]) and not (found[0] == found[1]).any()
    assert np.array_equal(keyed_bits(seeds[1:2], "flip", 2), found[1:2, :2])
    assert not (keyed_bits(seeds, "point", 4) == found).any()


def test_streams_are_splitmix64() -> None:
    """The first outputs from 1234567 as its authors' C program prints them."""
    found = streams(np.array([1234567], dtype=np.uint64), 3)[0].tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_black_stays_black_and_white_white_whatever_is_drawn(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = lambda seeds, tag, count: np.full((len(seeds), count), bits, dtype=np.uint64)  # noqa: E731
    monkeypatch.setattr(keyed, "keyed_bits", drawn)
    image = np.array([[0, 255, 128]], dtype=np.uint8)
    found = bernoulli_u8(image, np.array([1], dtype=np.uint64), "x")[0].tolist()
    assert found == [0, 255, 255 if bits == 0 else 0]
