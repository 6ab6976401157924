"""The grids of a run, one after another: what the same seeds became as it trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from evaluation.pictures.animation import save_gif

MAX_FRAMES = 60  # of longer runs, so many at even steps
MAX_SIDE = 480  # pixels of a frame
BAR = 16  # pixels for the number of the step
SUFFIX = "step="


def write_film(folder: Path, path: Path) -> bool:
    """Joins the `step=….png` of a folder into an animated GIF; False where fewer than two of them can be read.

    Frames are at most 480 pixels wide and high, at most 60, and carry their step; the last one is held. A broken
    picture is left out with a warning.

    Raises: OSError where the film cannot be written; the file that was there stays.
    """
    frames = [frame for one in evenly(sorted(folder.glob(f"{SUFFIX}*.png")), MAX_FRAMES) if (frame := read(one))]
    if len(frames) < 2:
        return False
    size = frames[-1].size  # of a run that was resumed with other conditions
    frames = [frame if frame.size == size else ImageOps.pad(frame, size, color="white") for frame in frames]
    save_gif(frames, path)
    return True


def evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many of the paths, at even steps, the first and the last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (most - 1))] for i in range(most)]


def read(path: Path) -> Image.Image | None:
    """A frame: the picture made small, its step underneath; None, with a warning, if it cannot be read."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
        step = int(path.stem.removeprefix(SUFFIX))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow calls damaged PNGs a SyntaxError
        print(f"warning: the film goes without {path}: {error}", flush=True)
        return None
    picture.thumbnail((MAX_SIDE, MAX_SIDE - BAR), Image.Resampling.BOX)
    frame = Image.new("RGB", (picture.width, picture.height + BAR), "white")
    frame.paste(picture)
    text = f"step {step:,}"
    ImageDraw.Draw(frame).text((4, picture.height + 1), text, fill="black", font=ImageFont.load_default(11))
    return frame
