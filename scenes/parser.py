"""Reads a picture back: which objects, or which word, it shows. It never sees a caption or a spec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenes.grammar import COLOURS
from scenes.labelling import label
from scenes.matching import fit_shape
from scenes.reading import read_word

VERSION = 2  # raise when a picture can be read in another way
FOREGROUND = 0.4  # alpha above which a pixel belongs to something
SIZE_THRESHOLD = 0.215  # of the side: between small (up to .17) and large (from .26)
DEBRIS_AREA = 0.1 * 0.14**2  # of the picture: less than a tenth of a small square is no object
GIANT_AREA = 0.35
MALFORMED_IOU = 0.6
CLEAR_IOU = 0.85  # when every object fits this well, the picture shows no word
WORD_FIT = 0.6
WORD_HEIGHT = 0.215  # of the side: what is lower is no word; letters are .26 high at least
SECOND_COLOUR = 0.3
SPECK = 0.5  # of a letter's cell: the least ink that counts
MIN_IMAGE_SIZE = 16
_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=float)  # (6, 3)


@dataclass(frozen=True)
class ParsedObject:
    """An object as read: centre and side of its box in units of the picture's side; `malformed` when no shape fits."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    side: float
    iou: float
    margin: float
    malformed: bool


@dataclass(frozen=True)
class ParsedScene:
    """What a picture shows: objects, or a word with its colour; artefacts are counted, not guessed at.

    `debris` is the share of the picture covered by specks too small for an object, `malformed` the number of objects
    that have no known shape, `fit` the overlap of what was read, drawn again, with the picture (0 when it is empty).
    """

    objects: tuple[ParsedObject, ...]
    word: str | None = None
    word_colour: str | None = None
    debris: float = 0.0
    malformed: int = 0
    fit: float = 0.0


@dataclass(frozen=True)
class _Matte:
    """A picture over its background: alpha (H, W), nearest colour (H, W) and squared residual per colour (6, H, W)."""

    alpha: np.ndarray
    colour: np.ndarray
    residual: np.ndarray


def parse(image_u8: np.ndarray) -> ParsedScene:
    """Read a square picture, uint8 (H, H, 3); ValueError for any other array.

    Source: a closed-form alternative to the learned detectors of Ghosh et al. 2023 (GenEval), section 3.
    """
    image_u8 = np.asarray(image_u8)
    if image_u8.dtype != np.uint8 or image_u8.ndim != 3 or image_u8.shape[2] != 3:
        raise ValueError(f"parse needs a uint8 (H, W, 3) picture, got {image_u8.dtype} {image_u8.shape}")
    if image_u8.shape[0] != image_u8.shape[1] or image_u8.shape[0] < MIN_IMAGE_SIZE:
        raise ValueError(f"parse needs a square picture of at least {MIN_IMAGE_SIZE} pixels, got {image_u8.shape}")
    matte = _matte(image_u8)
    labels, num_parts = _parts(matte)
    areas = np.bincount(labels.ravel(), minlength=num_parts + 1) / labels.size
    solid = [i for i in range(1, num_parts + 1) if areas[i] >= DEBRIS_AREA]
    debris = float(areas[1:].sum() - areas[solid].sum())
    objects = tuple(_read_object(matte, labels, i, float(areas[i])) for i in solid)
    fit = float(np.average([o.iou for o in objects], weights=areas[solid])) if solid else 0.0
    if objects and min(o.iou for o in objects) < CLEAR_IOU:
        word = _try_word(matte, labels, areas, solid, fit)
        if word is not None:
            return word
    return ParsedScene(objects, debris=debris, malformed=sum(o.malformed for o in objects), fit=fit)


def _matte(image_u8: np.ndarray) -> _Matte:
    """Explain every pixel as background plus alpha times one palette colour, in closed form.

    A pixel on an edge lies on the line from the background to a colour, so its hue is right however faint it is.
    """
    image = image_u8.astype(float)
    rim = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    background = np.median(rim, axis=0)
    offset = image - background  # (H, W, 3)
    directions = _PALETTE - background  # (6, 3)
    norms = np.maximum((directions**2).sum(axis=1), 1.0)  # (6,)
    alpha = np.clip(np.moveaxis(offset @ directions.T / norms, -1, 0), 0, 1.15)  # (6, H, W)
    residual = ((offset[None] - alpha[..., None] * directions[:, None, None]) ** 2).sum(axis=-1)  # (6, H, W)
    colour = residual.argmin(axis=0)
    return _Matte(np.take_along_axis(alpha, colour[None], axis=0)[0], colour, residual)


def _parts(matte: _Matte) -> tuple[np.ndarray, int]:
    """Number the connected parts of the foreground; a part with two strong colours is divided by colour."""
    labels, n = label(matte.alpha > FOREGROUND)
    num_colours = len(_NAMES)
    key = (labels * num_colours + matte.colour).ravel()
    votes = np.bincount(key, weights=matte.alpha.ravel(), minlength=(n + 1) * num_colours).reshape(n + 1, num_colours)
    ranked = np.sort(votes, axis=1)
    for i in range(1, n + 1):
        if ranked[i, -2] > SECOND_COLOUR * ranked[i].sum():
            inside = labels == i
            labels[inside] = 0
            for c in np.nonzero(votes[i] > 0)[0]:
                pieces, m = label(inside & (matte.colour == c))
                labels = np.where(pieces > 0, pieces + n, labels)
                n += m
    unique, packed = np.unique(labels, return_inverse=True)
    if unique[0] != 0:  # no background pixel is left
        return packed.reshape(labels.shape) + 1, len(unique)
    return packed.reshape(labels.shape), len(unique) - 1


def _read_object(matte: _Matte, labels: np.ndarray, number: int, area: float) -> ParsedObject:
    rows, columns = np.nonzero(labels == number)
    reach = 1 if labels.shape[0] < 48 else 2  # pixels of soft rim that belong to the part
    window, (y0, x0) = _window(labels.shape, rows, columns, reach)
    own = _grown(labels[window] == number, reach) & ((labels[window] == number) | (labels[window] == 0))
    alpha = _normalised(np.where(own, matte.alpha[window], 0.0), matte.alpha[rows, columns])
    fit = fit_shape(alpha)
    weights = matte.alpha[rows, columns]
    colour = _NAMES[int((matte.residual[:, rows, columns] * weights).sum(axis=1).argmin())]
    n = labels.shape[0]
    side = fit.side / n
    return ParsedObject(
        colour,
        fit.shape,
        "small" if side < SIZE_THRESHOLD else "large",
        (x0 + fit.x) / n,
        (y0 + fit.y) / n,
        side,
        fit.iou,
        fit.margin,
        fit.iou < MALFORMED_IOU or area > GIANT_AREA,
    )


def _try_word(
    matte: _Matte, labels: np.ndarray, areas: np.ndarray, solid: list[int], object_fit: float
) -> ParsedScene | None:
    """The picture as a word, if a word explains it better than objects do."""
    strokes = np.isin(labels, solid)
    rows, columns = np.nonzero(strokes)
    height = rows.max() + 1 - rows.min()
    if height < WORD_HEIGHT * len(labels):
        return None
    cell = height / 7
    # Letters may have loose dots: specks count as ink when they are large enough and within two cells of the strokes.
    near, _ = _window(labels.shape, rows, columns, max(1, round(2 * cell)))
    ink = np.zeros_like(strokes)
    ink[near] = (labels[near] > 0) & (areas[labels[near]] * labels.size >= SPECK * cell**2)
    rows, columns = np.nonzero(ink)
    if not len(rows):
        return None
    window, _ = _window(labels.shape, rows, columns, 2)
    mask = matte.alpha[rows, columns]
    reading = read_word(np.where(_grown(ink[window], 2), matte.alpha[window], 0.0))
    if reading.fit < WORD_FIT or reading.fit <= object_fit:
        return None
    votes = np.bincount(matte.colour[rows, columns], weights=mask, minlength=len(_NAMES))
    two_colours = np.sort(votes)[-2] > SECOND_COLOUR * votes.sum()
    colour = _NAMES[int((matte.residual[:, rows, columns] * mask).sum(axis=1).argmin())]
    debris = float(areas[1:].sum() - ink.mean())
    return ParsedScene((), reading.word, colour, max(debris, 0.0), int(two_colours), reading.fit)


def _window(
    shape: tuple[int, ...], rows: np.ndarray, columns: np.ndarray, pad: int
) -> tuple[tuple[slice, slice], tuple[int, int]]:
    """The box of some pixels, padded and cut to the picture, and its corner (y, x)."""
    y0, y1 = max(int(rows.min()) - pad, 0), min(int(rows.max()) + 1 + pad, shape[0])
    x0, x1 = max(int(columns.min()) - pad, 0), min(int(columns.max()) + 1 + pad, shape[1])
    return (slice(y0, y1), slice(x0, x1)), (y0, x0)


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask and all pixels within `reach` steps of it, diagonal ones included."""
    for _ in range(reach):
        p = np.pad(mask, 1)
        rows = p[:-2] | p[1:-1] | p[2:]
        mask = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return mask


def _normalised(alpha: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Alpha scaled so that the 90th percentile inside a part is one: brightness and jitter drop out."""
    return np.minimum(alpha / max(float(np.percentile(inside, 90)), 1e-6), 1.0)
