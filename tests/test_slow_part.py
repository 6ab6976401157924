"""The slow tests' parts: everything is in exactly one of them, and none takes much longer than the others."""

from __future__ import annotations

import pytest

from tests import slow_part
from tests.slow_part import PARTS, chosen_part, parts, seconds

NAMES = [*slow_part.SECONDS, *(f"tests/other.py::test_{i}" for i in range(18))]


def test_every_test_is_in_one_part_and_the_parts_are_even() -> None:
    lists = parts(NAMES)
    assert sorted(name for part in lists for name in part) == sorted(NAMES) and len(lists) == PARTS
    sums = [sum(map(seconds, part)) for part in lists]
    assert max(sums) - min(sums) <= max(map(seconds, NAMES))
    assert parts(reversed(NAMES)) == lists, "the order of collection does not matter"


@pytest.mark.parametrize("days_between", [1, 7])
def test_daily_and_weekly_runs_reach_every_part(days_between: int) -> None:
    reached = {chosen_part("today", 86_400.0 * days_between * i)[0] for i in range(PARTS)}
    assert reached == set(range(PARTS))


def test_parts_by_number() -> None:
    assert chosen_part("2/3", 0.0) == (1, 3)
    for wrong in ("0/3", "4/3", "x", "1/", ""):
        with pytest.raises(pytest.UsageError, match="today, or K/N"):
            chosen_part(wrong, 0.0)


def test_measured_tests_exist() -> None:
    """A renamed test would count as a short one."""
    for name in slow_part.SECONDS:
        path, _, rest = name.partition("::")
        assert f"def {rest.partition('[')[0]}(" in open(path).read()
