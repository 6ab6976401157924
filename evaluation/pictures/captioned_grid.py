"""Pictures for people: one PNG of many images, each with its caption."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MIN_CELL = 128  # pixels; smaller images are enlarged to whole multiples, so that pixels stay square


def captioned_grid(
    images_u8: Tensor, captions: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """A grid of images with captions wrapped underneath.

    Args: images_u8 (B, C, H, W) uint8 with 1 or 3 channels; captions: B strings or None; columns: None is near-square.
    """
    pictures = [to_pil(image) for image in images_u8]
    factor = max(1, round(MIN_CELL / max(pictures[0].size)))
    width, height = (side * factor for side in pictures[0].size)
    font = ImageFont.load_default()
    lines = [textwrap.wrap(c, max(8, width // 6)) for c in captions] if captions else [[] for _ in pictures]
    text = 12 * max(map(len, lines)) + (6 if captions else 0)
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    grid = Image.new("RGB", (columns * (width + 4) + 4, rows * (height + text + 4) + 4), "white")
    draw = ImageDraw.Draw(grid)
    for i, picture in enumerate(pictures):
        x, y = 4 + (i % columns) * (width + 4), 4 + (i // columns) * (height + text + 4)
        grid.paste(picture.resize((width, height), Image.Resampling.NEAREST), (x, y))
        draw.multiline_text((x, y + height + 1), "\n".join(lines[i]), fill="black", font=font, spacing=1)
    return grid


def to_pil(image_u8: Tensor) -> Image.Image:
    """(C, H, W) uint8 -> RGB picture."""
    array = image_u8.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")
