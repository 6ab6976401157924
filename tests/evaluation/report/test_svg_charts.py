"""Charts as text: axes around the values, marks that differ, escaped names, numbers as people read them."""

from __future__ import annotations

import math
from xml.dom import minidom

import numpy as np
import pytest

from evaluation.report.svg_charts import (
    NUM_COLOURS, Bar, Point, Series, bars, histogram, mark, nice_axis, png_uri, show, xy_chart,
)  # fmt: skip


@pytest.mark.parametrize(("values", "zero"), [([0.1, 0.9], False), ([488.0, 502.0], False), ([3.0, 4.0], True), ([5.0], False)])
def test_an_axis_holds_its_values_and_a_few_ticks(values: list[float], zero: bool) -> None:
    axis = nice_axis(values, "y", zero=zero)
    shares = [axis.share(value) for value in values]
    assert all(0 <= share <= 1 for share in shares) and 2 <= len(axis.ticks) <= 7
    assert all(0 <= axis.share(value) <= 1 for value, _ in axis.ticks)
    assert not zero or axis.share(0) == 0


def test_numbers_as_people_read_them() -> None:
    assert show(0.5, "%") == "50.0%" and show(123.456) == "123.5" and show(0.012345) == "0.0123"


def test_marks_repeat_only_after_colours_and_shapes_are_used_up() -> None:
    marks = {(number % NUM_COLOURS, mark(0, 0, number)) for number in range(4 * NUM_COLOURS)}
    assert len(marks) == 4 * NUM_COLOURS
    assert "<title>a &lt; b</title>" in mark(0, 0, 0, "a < b")


def test_charts_are_well_formed_and_escape_names() -> None:
    name = "<b>&\"'"
    series = [Series(name, [Point(1, 2, 1.5, 2.5, text=name), Point(2, 3)], 0)]
    chart = xy_chart(series, nice_axis([1, 2], name), nice_axis([1, 3], name), name)
    rows = bars({name: [Bar(0.5, 0, 0.4, 0.6, real=0.9, chance=0.1), Bar(0.7, 1)]}, name)
    shares = histogram({name: [0.1, 0.2, 0.4], "b": [0.3]}, {name: "c0", "b": "real"}, name, name)
    for svg in (chart, rows, shares):
        assert name not in svg and minidom.parseString(svg).documentElement.tagName == "svg"
        assert "nan" not in svg


def test_logarithmic_axes_are_even_in_the_exponent() -> None:
    axis = nice_axis([1, 100], "x", log=True)
    low, middle, high = (axis.share(v) for v in (1, 10, 100))
    assert math.isclose(middle - low, high - middle, rel_tol=1e-6)


def test_a_picture_is_an_address() -> None:
    assert png_uri(np.zeros((2, 2, 3), np.uint8)).startswith("data:image/png;base64,")
