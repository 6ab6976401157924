"""Draws scenes with their captions on one sheet: `python -m scenes.contact_sheet docs/images/scenes.png`."""

from __future__ import annotations

import argparse
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from scenes.captions import caption
from scenes.grammar import PRESETS, sample_spec
from scenes.render import render
from scenes.splits import SPLITS, caption_style

TEXT_HEIGHT, MARGIN, COLUMNS = 58, 8, 7


def contact_sheet(preset: str, split: str, n: int, image_size: int, seed: int = 0) -> Image.Image:
    """The first n scenes of a split, each with its caption underneath."""
    cell = image_size + MARGIN
    rows = -(-n // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * cell + MARGIN, rows * (cell + TEXT_HEIGHT) + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i in range(n):
        spec = sample_spec(seed + i, preset, split)
        x, y = MARGIN + i % COLUMNS * cell, MARGIN + i // COLUMNS * (cell + TEXT_HEIGHT)
        sheet.paste(Image.fromarray(render(spec, seed + i, image_size)[0]), (x, y))
        lines = wrap(caption(spec, seed + i, caption_style(split), preset), image_size // 6)
        draw.multiline_text((x, y + image_size + 3), "\n".join(lines[:4]), fill="black", font=font, spacing=1)
    return sheet


def main() -> None:
    """Write a sheet to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out")
    parser.add_argument("--preset", default="scenes", choices=sorted(PRESETS))
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--n", type=int, default=21)
    parser.add_argument("--image-size", type=int, default=128)
    args = parser.parse_args()
    contact_sheet(args.preset, args.split, args.n, args.image_size).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
