"""Reads a word out of a soft mask: finds its scale from its box, then compares each letter with the font."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenes.coverage import FULL, bitmap_coverage
from scenes.font import COLUMNS, GLYPHS, ROWS, bitmap, word_columns
from scenes.matching import PAD, blurred, soft_iou

MAX_LETTERS = 5  # one more than the grammar has, so that a letter too many is seen
UNREADABLE = 0.55  # overlap below which a letter is read as "?"
_GLYPHS = np.stack(list(GLYPHS.values())).astype(float)  # (26, 7, 5)
_LETTERS = "".join(GLYPHS)


@dataclass(frozen=True)
class Reading:
    """A word as read: letters ("?" where none fits) and the overlap of the drawn word with the picture, in [0, 1]."""

    word: str
    iou: float


def read_word(alpha: np.ndarray) -> Reading:
    """Read the one word that a soft mask (H, W) in [0, 1] shows; the mask's window must be tight within a few pixels."""
    left, right = _extent(alpha.max(axis=0))
    top, bottom = _extent(alpha.max(axis=1))
    num_letters = round(((right - left) / max(bottom - top, 1e-6) * ROWS + 1) / (COLUMNS + 1))
    num_letters = min(max(num_letters, 1), MAX_LETTERS)
    cell = ((right - left) / word_columns(num_letters) + (bottom - top) / ROWS) / 2
    # In centres, so that a change of scale does not move the word.
    pose = ((left + right) / 2, (top + bottom) / 2, cell)
    best = _letters(alpha, num_letters, pose)
    for step in (0.5, 0.2):  # pixels at the word's rim
        centre = pose
        for dx in (-step, 0.0, step):
            for dy in (-step, 0.0, step):
                for dc in (-step, 0.0, step):
                    trial = (centre[0] + dx, centre[1] + dy, centre[2] + dc * 2 / word_columns(num_letters))
                    if trial != centre and trial[2] > 0.3:
                        found = _letters(alpha, num_letters, trial)
                        if found[0] < best[0]:
                            best, pose = found, trial
    return _verify(alpha, best[1], pose)


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Where a profile begins and ends, to a fraction of a pixel: a border pixel counts by its value."""
    inside = np.nonzero(profile > 0.25 * profile.max())[0]
    first, last = int(inside[0]), int(inside[-1])
    peak = profile.max()
    return first + 1 - float(profile[first] / peak), last + float(profile[last] / peak)


def _letters(alpha: np.ndarray, num_letters: int, pose: tuple[float, float, float]) -> tuple[float, str]:
    """The letters that explain a mask best at one pose (centre x, centre y, cell; pixels), and their squared error.

    The mask is averaged over cells, and so is each drawn glyph: their difference is exact at any fractional scale.
    """
    columns = word_columns(num_letters)
    x, y, cell = pose
    down = _overlap(alpha.shape[0], y - ROWS / 2 * cell, cell, ROWS)  # (H, 7)
    across = _overlap(alpha.shape[1], x - columns / 2 * cell, cell, columns)  # (W, columns)
    seen = down.T @ alpha @ across / cell**2  # (7, columns)
    mix_down, mix_across = down.T @ down / cell, across.T @ across / cell
    error, word = 0.0, ""
    for i in range(num_letters):
        part = slice((COLUMNS + 1) * i, (COLUMNS + 1) * i + COLUMNS)
        drawn = mix_down @ _GLYPHS @ mix_across[part, part]  # (26, 7, 5)
        errors = ((seen[:, part] - drawn) ** 2).sum(axis=(1, 2))
        k = int(errors.argmin())
        error += float(errors[k])
        word += _LETTERS[k]
    # Ink that should lie inside the word but was left out by a pose too small or shifted.
    missed = alpha.sum() / cell**2 - seen.sum()
    return error + max(float(missed), 0.0), word


def _overlap(num_pixels: int, origin: float, cell: float, num_cells: int) -> np.ndarray:
    """The length of each cell inside each pixel of a line: (pixels, cells)."""
    bounds = origin + cell * np.arange(num_cells + 1)
    return np.diff(np.clip(bounds[None, :] - np.arange(num_pixels)[:, None], 0, 1), axis=1)


def _verify(alpha: np.ndarray, word: str, pose: tuple[float, float, float]) -> Reading:
    """Draw the word as read and compare it with the mask, whole and letter by letter."""
    h, w = alpha.shape
    x, y, cell = pose
    left, top = x - word_columns(len(word)) / 2 * cell, y - ROWS / 2 * cell
    drawn = bitmap_coverage(bitmap(word), left, top, cell, -PAD, -PAD, w + 2 * PAD, h + 2 * PAD) / FULL
    levels = blurred(drawn[None])[:, 0]  # (levels, H, W)
    mask = np.pad(alpha, PAD)
    ious = soft_iou(mask, levels)
    best = levels[int(ious.argmax())]
    letters = ""
    for i, letter in enumerate(word):
        a = max(round(left + (6 * i - 0.5) * cell) + PAD, 0)
        b = max(round(left + (6 * i + 5.5) * cell) + PAD, a + 1)
        letters += letter if float(soft_iou(mask[:, a:b], best[:, a:b])) >= UNREADABLE else "?"
    return Reading(letters, float(ious.max()))
