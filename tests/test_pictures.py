"""Transparent pictures are laid on white."""

from __future__ import annotations

import pytest
from PIL import Image

from pictures import on_white


@pytest.mark.parametrize(
    "mode,colour,expected",
    [
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 51), (204, 204, 204)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("L", 7, (7, 7, 7)),
    ],
)
def test_on_white(mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    found = on_white(Image.new(mode, (2, 2), colour))
    assert found.mode == "RGB" and found.getpixel((1, 1)) == expected
