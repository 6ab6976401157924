"""Pictures in Pillow's form, for all rooms."""

from __future__ import annotations

from PIL import Image


def on_white(image: Image.Image) -> Image.Image:
    """A picture of any mode that Pillow converts, as RGB; what is transparent shows white."""
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
