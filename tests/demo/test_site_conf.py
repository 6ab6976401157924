"""Settings of the site: docstrings are read as they were meant."""

from __future__ import annotations

import sys

import pytest


def test_bars_and_stars_are_text_and_a_section_of_one_line_is_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the file makes the repository importable
    from demo.site_conf import as_restructured_text

    lines = ["p(x | z) of images (B, *shape), or `a | b`.", "Raises: ValueError.", "Args:", "    **kwargs: of x."]
    as_restructured_text(None, "function", "f", None, None, lines)
    assert lines == [r"p(x \| z) of images (B, \*shape), or `a | b`.", "", "**Raises:** ValueError.", "Args:", "    **kwargs: of x."]
