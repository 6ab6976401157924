"""Every kind of image file is either read right or refused for a named reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.decode import REASONS, BadImage, load_square, verify

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(mode: str, colour) -> Image.Image:
    return Image.new(mode, (20, 16), colour)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be huge: nothing but its header and a few bytes of data."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"0" * 100)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def frames() -> bytes:
    return encoded(flat("P", 0).convert("RGB"), "GIF", save_all=True, append_images=[flat("RGB", "white")])


def grey_16(value: int) -> Image.Image:
    return Image.fromarray(np.full((16, 20), value, np.uint16))


def with_palette_transparency() -> bytes:
    image = flat("P", 0)
    image.putpalette([0, 0, 0] * 256)
    return encoded(image, "PNG", transparency=0)


PHOTO = Image.fromarray(NOISE)
JPEG, PNG = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG")

PHOTOS = [encoded(PHOTO, kind) for kind in ("PNG", "BMP", "TIFF", "PPM")]  # resized noise keeps its mean roughly
PHOTOS.append(encoded(PHOTO, "WEBP", lossless=True))

# name -> (bytes, what the picture's mean should be about (None: any), or the reason it is refused for)
ODD: dict[str, tuple[bytes, float | str | None]] = {
    "plain.jpg": (JPEG, None),
    **{f"plain.{kind}": (PHOTOS[i], NOISE.mean()) for i, kind in enumerate(("png", "bmp", "tif", "ppm", "webp"))},
    "progressive.jpg": (encoded(PHOTO, "JPEG", progressive=True), None),
    "wrong_ending.png": (JPEG, None),
    "grey.png": (encoded(flat("L", 100), "PNG"), 100),
    "grey.jpg": (encoded(flat("L", 100), "JPEG"), 100),
    "one_bit.png": (encoded(flat("1", 1), "PNG"), 255),
    "palette.gif": (encoded(flat("RGB", (30, 60, 90)).convert("P"), "GIF"), None),
    "palette_clear.png": (with_palette_transparency(), 255),
    "clear.png": (encoded(flat("RGBA", (255, 0, 0, 0)), "PNG"), 255),
    "half.png": (encoded(flat("RGBA", (0, 0, 0, 128)), "PNG"), 127),
    "grey_alpha.png": (encoded(flat("LA", (0, 0)), "PNG"), 255),
    "colour_key.png": (encoded(flat("RGB", (1, 2, 3)), "PNG", transparency=(1, 2, 3)), 255),
    "grey_key.png": (encoded(flat("L", 7), "PNG", transparency=7), 255),
    "cmyk.jpg": (encoded(flat("CMYK", (0, 0, 0, 0)), "JPEG"), 255),
    "cmyk.tif": (encoded(flat("CMYK", (0, 0, 0, 255)), "TIFF"), 0),
    "grey16.png": (encoded(grey_16(32896), "PNG"), 128),
    "grey16.tif": (encoded(grey_16(257), "TIFF"), 1),
    "animated.gif": (frames(), 0),
    "one_pixel.png": (encoded(Image.new("RGB", (1, 1), (9, 9, 9)), "PNG"), 9),
    "stereo.mpo": (encoded(flat("L", 100), "MPO", save_all=True, append_images=[flat("L", 0)]), 100),
    "plain.jp2": (encoded(flat("RGB", (9, 9, 9)), "JPEG2000"), 9),
    "plain.avif": (encoded(flat("RGB", (200, 200, 200)), "AVIF"), 200),
    "strip.png": (encoded(Image.new("RGB", (1, 20000), (9, 9, 9)), "PNG"), 9),
    "bad_exif.jpg": (encoded(PHOTO, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff junk"), None),
    "empty.png": (b"", "empty"),
    "page.jpg": (b"<html><body>404 Not Found</body></html>", "not_an_image"),
    "zeros.jpg": (bytes(500), "not_an_image"),
    "header_only.png": (PNG[:20], "truncated"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "cut.png": (PNG[: len(PNG) // 2], "truncated"),
    "rotten.png": (PNG[:100] + bytes(400) + PNG[500:], "corrupt"),
    "bomb.png": (png_header(60000, 60000), "too_large"),
    "large.png": (png_header(10000, 10000), "too_large"),
    "float.tif": (encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "unsupported"),
    "int32.tif": (encoded(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "unsupported"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files(tmp_path: Path, name: str):
    content, expected = ODD[name]
    (tmp_path / name).write_bytes(content)
    if isinstance(expected, str):
        for read in (verify, lambda path: load_square(path, 16)):
            with pytest.raises(BadImage) as caught:
                read(tmp_path / name)
            assert caught.value.reason == expected and expected in REASONS
        return
    verify(tmp_path / name)
    image_u8 = load_square(tmp_path / name, 16)
    assert image_u8.shape == (16, 16, 3) and image_u8.dtype == np.uint8
    if expected is not None:
        assert image_u8.mean() == pytest.approx(expected, abs=8.0 if content in PHOTOS else 1.0)


def test_missing_and_unreadable(tmp_path: Path):
    with pytest.raises(BadImage) as caught:
        verify(tmp_path / "gone.png")
    assert caught.value.reason == "missing"
    with pytest.raises(BadImage) as caught:
        verify(tmp_path)
    assert caught.value.reason == "unreadable"


def test_damage_never_raises_anything_else(tmp_path: Path):
    """Random flips and cuts in every format: a picture or a named reason, nothing else."""
    sources = [content for content, expected in ODD.values() if not isinstance(expected, str) and len(content) > 60]
    rng, verdicts = np.random.default_rng(1), []
    for trial in range(400):
        content = bytearray(sources[trial % len(sources)])
        for _ in range(1 + trial % 5):
            content[rng.integers(len(content))] = rng.integers(256)
        if trial % 3 == 0:
            content = content[: rng.integers(1, len(content))]
        path = tmp_path / "damaged"
        path.write_bytes(bytes(content))
        try:
            verdicts.append(load_square(path, 8).shape == (8, 8, 3))
        except BadImage as bad:
            assert bad.reason in REASONS
            verdicts.append(bad.reason)
    assert len(verdicts) == 400 and {True, "truncated"} <= set(verdicts)


@pytest.mark.parametrize("orientation,corner", [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0)), (2, (0, 1))])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int]):
    stored = np.zeros((32, 32, 3), np.uint8)
    stored[:16, :16] = 255  # the bright quarter is stored top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "photo.jpg").write_bytes(encoded(Image.fromarray(stored), "JPEG", exif=exif, quality=95))
    quarters = load_square(tmp_path / "photo.jpg", 2)[:, :, 0]
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
    assert quarters.max() > 200 and np.sort(quarters.ravel())[-2] < 60


def test_an_unreadable_exif_block_is_told_and_the_picture_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(image: Image.Image) -> Image.Image:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(ImageOps, "exif_transpose", damaged)
    Image.fromarray(NOISE).save(tmp_path / "photo.png")
    with pytest.warns(UserWarning, match=r"EXIF block could not be read \(SyntaxError\)"):
        assert load_square(tmp_path / "photo.png", 8).shape == (8, 8, 3)


def test_the_centre_is_kept_whole(tmp_path: Path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (load_square(tmp_path / "wide.png", 20) == 200).all()


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_shrinking_is_antialiased(tmp_path: Path, kind: str):
    checkered = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checkered).save(tmp_path / f"checkered.{kind}", quality=95)
    image_u8 = load_square(tmp_path / f"checkered.{kind}", 32)
    assert np.abs(image_u8.astype(int) - 127).max() <= 3  # grey; nearest neighbour would give 0 and 255


def test_every_level_of_16_bits_becomes_the_nearest_of_8(tmp_path: Path) -> None:
    for value in (0, 128, 129, 257, 32_767, 65_278, 65_535):
        grey_16(value).save(tmp_path / "grey.png")
        assert (load_square(tmp_path / "grey.png", 4) == round(value / 257)).all(), value
