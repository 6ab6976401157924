"""The scenes' own random numbers: the published generator, and ranges."""

from __future__ import annotations

from collections import Counter

from scenes.rng import Rng, stable_hash


def test_splitmix64_gives_its_published_numbers() -> None:
    rng = Rng()
    rng.state = 1234567  # Vigna's splitmix64.c with this seed
    assert [rng.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_do_not_run_together() -> None:
    assert len({stable_hash("ab", "c"), stable_hash("a", "bc"), stable_hash("abc")}) == 3


def test_numbers_stay_in_their_ranges_and_reach_all_of_them() -> None:
    rng = Rng("range")
    drawn = Counter(rng.below(5) for _ in range(1000))
    assert set(drawn) == set(range(5)) and min(drawn.values()) > 140
    values = [rng.uniform(-1, 3) for _ in range(1000)]
    assert -1 <= min(values) < -0.95 and 2.95 < max(values) < 3
    assert {rng.choice("abc") for _ in range(50)} == set("abc")
