"""Hashes: the same numbers for ever, and no other keys than integers and strings."""

from __future__ import annotations

import pytest

from rng.hashing import expand, stable_hash


def test_hashes_are_frozen() -> None:
    """Checkpoints and caches depend on these numbers."""
    assert stable_hash("sample", 0, 0, 0) == 5903683999405475316
    assert stable_hash("order", 1, 2) == 7687777085736185544
    assert all(0 <= stable_hash(i) < 2**63 for i in range(1000))


def test_parts_of_a_key_do_not_run_together() -> None:
    assert len({stable_hash("ab", "c"), stable_hash("a", "bc"), stable_hash("abc"), stable_hash(("abc"), "")}) == 4
    assert stable_hash(1) != stable_hash("1") and stable_hash(True) == stable_hash(1)


def test_expanding_gives_as_many_bytes_as_asked_for() -> None:
    assert expand(("x", 1), 3000)[:16] == expand(("x", 1), 16) != expand(("x", 2), 16)
    assert len(expand(("x",), 2496)) == 2496
    assert expand(("a",), 4).hex() == "4c43d9ad"


@pytest.mark.parametrize("key", [0.5, None, (1,), b"x"])
def test_other_kinds_of_keys_are_refused(key: object) -> None:
    with pytest.raises(TypeError):
        stable_hash(key)
    with pytest.raises(TypeError):
        expand((key,), 4)
