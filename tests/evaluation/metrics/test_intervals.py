"""95 % intervals against the formulas of their papers."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.intervals import interval, means


def test_of_a_mean_it_is_two_standard_errors_wide_on_both_sides() -> None:
    values = torch.tensor([1.0, 4.0, 2.0, 7.0, 6.0], dtype=torch.float64)
    error = (((values - 4) ** 2).sum() / 4 / 5).sqrt().item()  # unbiased variance, divided by five
    assert interval(values) == pytest.approx((4 - 1.96 * error, 4 + 1.96 * error), rel=1e-12)
    assert interval(values.float()) == pytest.approx(interval(values), rel=1e-6)


def test_it_shrinks_with_the_root_of_the_count() -> None:
    values = torch.tensor([0.0, 1.0]).repeat(50)
    widths = [high - low for low, high in (interval(values), interval(values.repeat(100)))]
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.01)


def test_of_a_share_it_is_wilsons_and_never_leaves_0_to_1() -> None:
    right = torch.tensor([1.0] * 9 + [0.0])
    z, n, p = 1.959964, 10, 0.9
    centre, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n * n)) ** 0.5
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert interval(right, share=True) == pytest.approx(expected, rel=1e-9)
    low, high = interval(torch.ones(10, dtype=torch.bool), share=True)
    assert 0.7 < low < 0.75 and 0.999999 < high <= 1, "the normal interval of ten right answers would have no width"


def test_columns_have_a_mean_a_count_and_from_two_images_on_an_interval() -> None:
    column = torch.tensor([1.0, 3.0])
    low, high = interval(column)
    assert means({"m": column}) == {"m": 2.0, "m_n": 2, "m_low": low, "m_high": high}
    assert means({"m": column[:1], "k": column[1:]}) == {"m": 1.0, "m_n": 1, "k": 3.0, "k_n": 1}
