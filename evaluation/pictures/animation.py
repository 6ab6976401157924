"""Pictures one after another, as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from files import replacing

FRAME_MS, LAST_MS = 200, 3000


def save_gif(frames: Sequence[Image.Image], path: Path) -> None:
    """Writes frames of one size as an animation that runs for ever and holds its last frame, whole or not at all."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    with replacing(path) as fresh:
        frames[0].save(fresh, format="gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)
