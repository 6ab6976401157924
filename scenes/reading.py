"""Reads a word out of a soft mask: letters and position are found in turn, each by comparison with the drawn font."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenes.font import COLUMNS, GLYPHS, ROWS, bitmap, word_columns
from scenes.matching import BLURS, blur_matrix

MAX_LETTERS = 5  # one more than the grammar has, so that a letter too many is seen
DOUBTFUL = 0.9  # fit below which another number of letters is tried
UNREADABLE = 0.75  # similarity below which a letter is read as "?"
_GLYPHS = np.stack(list(GLYPHS.values())).astype(float)  # (26, 7, 5)
_NAMES = "".join(GLYPHS)


@dataclass(frozen=True)
class Reading:
    """A word as read ("?" for a letter that none resembles) and the squared cosine of drawn word and picture."""

    word: str
    fit: float


@dataclass(frozen=True)
class _Pose:
    """Where a word stands in a mask: centre and side of a cell in pixels, and the blur of the picture."""

    x: float
    y: float
    cell: float
    sigma: float


def read_word(alpha: np.ndarray) -> Reading:
    """Read the one word that a soft mask (H, W) in [0, 1] shows, cut out with few empty pixels around it."""
    left, right = _extent(alpha.max(axis=0))
    top, bottom = _extent(alpha.max(axis=1))
    likely = round(((right - left) / max(bottom - top, 1.0) * ROWS + 1) / (COLUMNS + 1))
    likely = min(max(likely, 1), MAX_LETTERS)
    best = _read(alpha, likely, (left, right, top, bottom))
    if best.fit < DOUBTFUL:
        others = [n for n in (likely - 1, likely + 1) if 1 <= n <= MAX_LETTERS]
        best = max([best, *(_read(alpha, n, (left, right, top, bottom)) for n in others)], key=lambda r: r.fit)
    return best


def _read(alpha: np.ndarray, n: int, box: tuple[float, float, float, float]) -> Reading:
    """Read n letters that fill a box (left, right, top, bottom; pixels) about."""
    left, right, top, bottom = box
    cell = max(((right - left) / word_columns(n) + (bottom - top) / ROWS) / 2, 0.5)
    centre = ((left + right) / 2, (top + bottom) / 2)
    starts = [_Pose(*centre, cell * scale, BLURS[1]) for scale in (1.0, 0.95, 0.9)]  # blur widens the box
    pose, word, _ = min(((p, *_letters(alpha, n, p)) for p in starts), key=lambda found: found[2])
    for steps in ((0.5, 0.25), (0.25, 0.12)):
        pose = _refined(alpha, word, pose, steps)
        word = _letters(alpha, n, pose)[0]
    return _verified(alpha, word, pose)


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Where a profile begins and ends, to a fraction of a pixel: a border pixel counts by its value."""
    peak = profile.max()
    inside = np.nonzero(profile > 0.25 * peak)[0]
    first, last = int(inside[0]), int(inside[-1])
    return first + 1 - float(profile[first] / peak), last + float(profile[last] / peak)


def _axes(shape: tuple[int, ...], columns: int, pose: _Pose) -> tuple[np.ndarray, np.ndarray]:
    """What each cell adds to each pixel, along y (H, 7) and along x (W, columns), blur included."""
    axes = []
    for num_pixels, middle, num_cells in ((shape[0], pose.y, ROWS), (shape[1], pose.x, columns)):
        bounds = middle + pose.cell * (np.arange(num_cells + 1) - num_cells / 2)
        axis = np.diff(np.clip(bounds[None, :] - np.arange(num_pixels)[:, None], 0, 1), axis=1)
        axes.append(blur_matrix(num_pixels, pose.sigma) @ axis if pose.sigma else axis)
    return axes[0], axes[1]


def _letters(alpha: np.ndarray, n: int, pose: _Pose) -> tuple[str, float]:
    """The n letters that explain a mask best at a pose, and the squared error that is left."""
    down, across = _axes(alpha.shape, word_columns(n), pose)
    word, error = "", 0.0
    for i in range(n):
        a, b = _letter_window(alpha.shape[1], i, n, pose)
        part = slice((COLUMNS + 1) * i, (COLUMNS + 1) * i + COLUMNS)
        drawn = down @ _GLYPHS @ across[a:b, part].T  # (26, H, w)
        seen = alpha[:, a:b]
        # What is left after the best brightness for each glyph: a blurred picture is fainter, not another letter.
        along = (seen * drawn).sum(axis=(1, 2))
        errors = (seen**2).sum() - along**2 / np.maximum((drawn**2).sum(axis=(1, 2)), 1e-12)
        k = int(errors.argmin())
        word, error = word + _NAMES[k], error + float(errors[k])
    return word, error


def _letter_window(width: int, i: int, n: int, pose: _Pose) -> tuple[int, int]:
    left = pose.x + ((COLUMNS + 1) * i - word_columns(n) / 2) * pose.cell
    a = min(max(round(left - pose.cell / 2), 0), width - 1)
    return a, max(min(round(left + (COLUMNS + 0.5) * pose.cell), width), a + 1)


def _drawn(alpha: np.ndarray, word: str, pose: _Pose) -> np.ndarray:
    cells = bitmap(word)
    down, across = _axes(alpha.shape, cells.shape[1], pose)
    return down @ cells @ across.T


def _cosine2(a: np.ndarray, b: np.ndarray) -> float:
    """The squared cosine of two non-negative arrays: 1 when they differ by brightness only."""
    return float((a * b).sum() ** 2 / max((a * a).sum() * (b * b).sum(), 1e-12))


def _refined(alpha: np.ndarray, word: str, pose: _Pose, steps: tuple[float, ...]) -> _Pose:
    """The pose near a given one at which a known word resembles a mask most."""
    half_columns = word_columns(len(word)) / 2
    trials = [_Pose(pose.x, pose.y, pose.cell, s) for s in BLURS]
    best, pose = max(((_cosine2(alpha, _drawn(alpha, word, p)), p) for p in trials), key=lambda found: found[0])
    for step in steps:
        grow = step / half_columns  # moves the word's outer edge by one step
        for _ in range(3):
            x, y, cell, sigma = pose.x, pose.y, pose.cell, pose.sigma
            trials = [_Pose(x + d, y, cell, sigma) for d in (-step, step)]
            trials += [_Pose(x, y + d, cell, sigma) for d in (-step, step)]
            trials += [_Pose(x, y, cell + d, sigma) for d in (-grow, grow) if cell + d > 0.3]
            found = max(((_cosine2(alpha, _drawn(alpha, word, p)), p) for p in trials), key=lambda found: found[0])
            if found[0] <= best:
                break
            best, pose = found
    return pose


def _verified(alpha: np.ndarray, word: str, pose: _Pose) -> Reading:
    """Draw the word as read and compare it with the mask, whole and letter by letter."""
    drawn = _drawn(alpha, word, pose)
    letters = ""
    for i, letter in enumerate(word):
        a, b = _letter_window(alpha.shape[1], i, len(word), pose)
        letters += letter if _cosine2(alpha[:, a:b], drawn[:, a:b]) >= UNREADABLE**2 else "?"
    return Reading(letters, _cosine2(alpha, drawn))
