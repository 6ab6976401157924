"""The sheet of scenes: every picture in its place with its own caption."""

from __future__ import annotations

import numpy as np
import pytest

from scenes import contact_sheet as module
from scenes.captions import caption
from scenes.contact_sheet import COLUMNS, MARGIN, TEXT_HEIGHT, contact_sheet
from scenes.grammar import sample_spec
from scenes.render import render


def test_every_picture_stands_in_its_place() -> None:
    n, size = COLUMNS + 2, 32
    sheet = np.asarray(contact_sheet("scenes", "train", n, size, seed=5))
    assert sheet.shape == (2 * (size + MARGIN + TEXT_HEIGHT) + MARGIN, COLUMNS * (size + MARGIN) + MARGIN, 3)
    for i in range(n):
        x, y = MARGIN + i % COLUMNS * (size + MARGIN), MARGIN + i // COLUMNS * (size + MARGIN + TEXT_HEIGHT)
        expected, _ = render(sample_spec(5 + i, "scenes", "train"), 5 + i, size)
        assert (sheet[y : y + size, x : x + size] == expected).all(), i


@pytest.mark.parametrize(("split", "style"), [("language", "held_out"), ("iid", "train")])
def test_captions_are_in_the_style_of_the_split(monkeypatch: pytest.MonkeyPatch, split: str, style: str) -> None:
    written = []
    monkeypatch.setattr(module, "wrap", lambda text, width: written.append(text) or [text])
    contact_sheet("scenes", split, 3, 32)
    assert written == [caption(sample_spec(i, "scenes", split), i, style, "scenes") for i in range(3)]
