"""How near each image is to each caption, as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from evaluation.pictures.captioned_grid import to_pil

CELL, TOP = 48, 20  # pixels
LOW, HIGH = (255, 255, 255), (32, 86, 149)


def similarity_matrix(images_u8: Tensor, captions: Sequence[str], cosine: Tensor) -> Image.Image:
    """A row per image, a column per caption; the darker, the nearer, with the number in it. Captions stand underneath.

    Args: images_u8 (N, C, H, W) uint8; captions: N strings; cosine (N, N), images by captions.
    """
    n, font = len(captions), ImageFont.load_default(11)
    picture = Image.new("RGB", (max(CELL * (n + 1) + 8, 560), TOP + CELL * n + 14 * n + 12), "white")
    draw = ImageDraw.Draw(picture)
    low, high = float(cosine.min()), float(cosine.max())
    for i in range(n):
        draw.text((CELL * (i + 1) + CELL // 2 - 5, 4), str(i + 1), fill="black", font=font)
        thumbnail = to_pil(images_u8[i]).resize((CELL - 4, CELL - 4), Image.Resampling.BOX)
        picture.paste(thumbnail, (2, TOP + CELL * i + 2))
        for j in range(n):
            value = float(cosine[i, j])
            share = (value - low) / (high - low) if high > low else 0.0
            colour = tuple(round(a + share * (b - a)) for a, b in zip(LOW, HIGH))
            x, y = CELL * (j + 1), TOP + CELL * i
            outline = "black" if i == j else colour
            draw.rectangle([x + 1, y + 1, x + CELL - 2, y + CELL - 2], fill=colour, outline=outline)
            draw.text((x + 10, y + CELL // 2 - 6), f"{value:.2f}", fill="white" if share > 0.5 else "black", font=font)
        draw.text((4, TOP + CELL * n + 6 + 14 * i), f"{i + 1}  {captions[i]}", fill="black", font=font)
    return picture
