"""Learning-rate schedules at their corners, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from optimizers.schedules import WarmupDecay


def test_rise_hold_and_fall() -> None:
    schedule = WarmupDecay(100, warmup_steps=10, decay_fraction=0.3)
    assert schedule(0) == pytest.approx(0.1) and schedule(4) == pytest.approx(0.5), "the first step already learns"
    assert [schedule(step) for step in (9, 50, 70)] == [1, 1, 1]
    assert schedule(85) == pytest.approx(0.5) and schedule(99) == pytest.approx(1 / 30)
    assert schedule(100) == schedule(130) == 0


def test_cosine_fall_to_a_final_value() -> None:
    schedule = WarmupDecay(100, warmup_steps=1, decay_fraction=0.5, final=0.2, shape="cosine")
    assert [schedule(step) for step in (0, 50)] == [1, pytest.approx(1)]
    assert schedule(60) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 0.2)) / 2)
    assert schedule(75) == pytest.approx(0.6) and schedule(100) == schedule(150) == pytest.approx(0.2)


def test_linear_fall_to_a_final_value() -> None:
    schedule = WarmupDecay(100, warmup_steps=1, decay_fraction=0.5, final=0.2)
    assert schedule(60) == pytest.approx(0.2 + 0.8 * 0.8)


def test_warm_up_goes_on_while_the_run_falls_and_without_a_fall() -> None:
    assert WarmupDecay(10, warmup_steps=10, decay_fraction=1)(4) == pytest.approx(0.5 * 0.6)
    constant = WarmupDecay(100, warmup_steps=4, decay_fraction=0)
    assert [constant(step) for step in (0, 1, 3, 99, 500)] == [0.25, 0.5, 1, 1, 1]
    assert WarmupDecay(100, warmup_steps=0, decay_fraction=0)(0) == 1


def test_what_is_further_decides_the_steps_or_the_time() -> None:
    schedule = WarmupDecay(100, warmup_steps=1, decay_fraction=0.5)
    assert schedule(60, 0.9) == pytest.approx(0.2) and schedule(80, 0.6) == pytest.approx(0.4) and schedule(10, 1.0) == 0
    by_time = WarmupDecay(None, warmup_steps=10, decay_fraction=0.5)
    assert by_time(4, 0.75) == pytest.approx(0.5 * 0.5) and by_time(10**6, 0.2) == 1 and by_time(10**6, 1.0) == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_settings_out_of_range_are_named(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"decay_fraction={fraction}"):
        WarmupDecay(10, decay_fraction=fraction)
    with pytest.raises(ValueError, match="shape='square'"):
        WarmupDecay(10, shape="square")
