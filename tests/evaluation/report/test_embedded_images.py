"""Images on the page: small PNGs as they are, large ones reduced, damaged ones not at all."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from evaluation.report.embedded_images import CELL, LARGEST, encode, image, load, tag


def png(width: int, height: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, format=kind)
    return buffer.getvalue()


def test_a_small_png_stays_byte_for_byte() -> None:
    content = png(16, 8)
    found = encode(content)
    assert base64.b64decode(found.address.split(",")[1]) == content and found[1:] == (16, 8, False)


def test_a_large_picture_is_reduced_in_its_proportions() -> None:
    found = encode(png(4 * LARGEST, 2 * LARGEST))
    assert found.reduced and (found.width, found.height) == (LARGEST, LARGEST // 2)
    assert encode(png(16, 16, "JPEG")).address.startswith("data:image/png")


def test_what_is_no_picture_leaves_a_place(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(8, 8)[:40])
    assert encode(b"no picture") is None and load(tmp_path / "a.png") is None and load(tmp_path / "gone.png") is None
    assert image(None, "x") == image(tmp_path / "a.png", "x") == '<span class="nothing">no image</span>'


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    assert f'width="{CELL}" height="{CELL // 2}"' in tag("data:", 32, 16, "a")
    assert 'alt="&quot;&lt;b&gt;"' in tag("data:", 32, 16, '"<b>')
