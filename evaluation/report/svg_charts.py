"""Small inline pictures for the report: SVG charts and PNG data URIs, without any script.

Colours come from the page, in a tone for light and one for dark: the classes `c0` to `c6` are the models, `real`,
`chance` and `reconstruction` the controls. Every model has a mark of its own as well, for eyes that do not tell colours.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 360, 230  # every chart is drawn for a phone; wide pages put several side by side
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 22, 38  # room around the plotted area
Place = Callable[[float, float], tuple[float, float]]
NUM_COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Point:
    """One value of a series with its 95 % interval, the text beside it and what hovering shows."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one model; `colour` is the model's number on the page, `line` joins them in order."""

    name: str
    points: Sequence[Point]
    colour: int
    line: bool = True
    dash: int = 0
    marks: bool = True


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] of one model with its interval and controls."""

    value: float
    colour: int
    low: float | None = None
    high: float | None = None
    real: float | None = None
    chance: float | None = None
    reconstruction: float | None = None


@dataclass
class Axis:
    """How values become places: range, scale, ticks and their writing."""

    low: float
    high: float
    label: str = ""
    unit: str = ""
    log: bool = False
    ticks: list[tuple[float, str]] = field(default_factory=list)

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        low, high, value = (self.low, self.high, value) if not self.log else map(math.log, (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5


def png_uri(image_u8: np.ndarray) -> str:
    """`data:` address of an image uint8 (H, W, 3) or (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(image_u8).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def show(value: float, unit: str = "") -> str:
    """A share as a percentage; anything else with three significant digits, or one decimal from 100 on."""
    if unit == "%":
        return f"{value:.1%}"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def nice_axis(values: Sequence[float], label: str, unit: str = "", zero: bool = False, log: bool = False) -> Axis:
    """An axis around the values with three to six round ticks.

    Args:
        zero: starts at 0, where all values allow it.
        log: decades and their halves; for positive values only.
    """
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.3, high * 1.3
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**p for p in powers for m in (1, 2, 5) if low * 0.999 <= m * 10.0**p <= high * 1.001]
        every = max(1, math.ceil(len(ticks) / 6))
        return Axis(low, high, label, unit, True, [(t, show(t, unit)) for t in ticks[::every]])
    if zero and low >= 0:
        low = 0.0
    if high == low:
        low, high = (low - 0.5, high + 0.5) if not zero else (low, high + (abs(high) or 1.0))
    step = _round_step((high - low) / 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if unit == "%" and zero:
        high = min(high, 1.0) if max(values) <= 1 else high
    count = round((high - low) / step)
    return Axis(
        low, high, label, unit, False, [(t, _tick(t, unit)) for t in (low + i * step for i in range(count + 1))]
    )


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _tick(value: float, unit: str) -> str:
    value = round(value, 12)
    return f"{value * 100:g}%" if unit == "%" else f"{value:,.6g}"


def xy_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    label: str,
    levels: Sequence[tuple[float, str]] = (),
    height: int = HEIGHT,
) -> str:
    """Curves or clouds of points with 95 % whiskers and horizontal levels.

    Args:
        label: what a reader who cannot see the chart is told.
        levels: (value, class) of controls, for instance the value of real images.
    """
    at, parts = _frame(x, y, height)
    for value, name in levels:
        line = at(x.low, value)[1]
        parts.append(_line(LEFT, line, WIDTH - RIGHT, line, f"level {name}"))
    parts += [_curve(one, at) for one in series]
    # Texts come last and avoid the marks and each other; where there is no room left, hovering still tells.
    taken = [_box(*at(point.x, point.y), 9, 9, 0.5) for one in series if one.marks for point in one.points]
    for one in series:
        parts += [text for point in one.points if (text := _beside(point.text, *at(point.x, point.y), taken, height))]
    return _svg(parts, height, label)


Box = tuple[float, float, float, float]


def _box(x: float, y: float, width: float, height: float, anchor: float) -> Box:
    return x - anchor * width, y - height / 2, x + (1 - anchor) * width, y + height / 2


def _beside(text: str, x: float, y: float, taken: list[Box], height: int) -> str:
    """The text next to its point where nothing else is; empty where it would lie on something or leave the chart."""
    wide = 6.3 * len(text)
    for dx, dy, name, anchor in (
        (7, -7, "start", 0.0), (7, 9, "start", 0.0), (-7, -7, "end", 1.0), (-7, 9, "end", 1.0),
        (9, -19, "start", 0.0), (9, 21, "start", 0.0), (-9, -19, "end", 1.0), (-9, 21, "end", 1.0),
    ):  # fmt: skip
        left, top, right, bottom = box = _box(x + dx, y + dy, wide, 11, anchor)
        inside = left > LEFT and right < WIDTH and top > TOP - 10 and bottom < height - BOTTOM + 2
        if text and inside and not any(left < b[2] and right > b[0] and top < b[3] and bottom > b[1] for b in taken):
            taken.append(box)
            return _text(x + dx, y + dy + 4, text, name, "note")
    return ""


def _frame(x: Axis, y: Axis, height: int) -> tuple[Place, list[str]]:
    """Where a point lies, and the grid, ticks and names of both axes."""

    def at(px: float, py: float) -> tuple[float, float]:
        up = min(max(y.share(py), -0.02), 1.02)
        return LEFT + 8 + x.share(px) * (WIDTH - LEFT - RIGHT - 16), TOP + (1 - up) * (height - TOP - BOTTOM)

    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [_text(2, 12, y.label, "start", "soft"), _text(middle, height - 4, x.label, "middle", "soft")]
    for value, text in y.ticks:
        line = at(x.low, value)[1]
        parts += [_line(LEFT, line, WIDTH - RIGHT, line, "grid"), _text(LEFT - 6, line + 4, text, "end", "soft")]
    parts += [_text(at(v, y.low)[0], height - BOTTOM + 16, text, "middle", "soft") for v, text in x.ticks]
    return at, parts


def _curve(one: Series, at: Place) -> str:
    places = [at(point.x, point.y) for point in one.points]
    parts = []
    if one.line and len(places) > 1:
        dash = f' stroke-dasharray="{DASHES[one.dash % len(DASHES)]}"' if one.dash % len(DASHES) else ""
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
        parts.append(f'<polyline class="curve" points="{path}"{dash}/>')
    for point, (px, py) in zip(one.points, places):
        if point.low is not None and point.high is not None:
            parts.append(_line(px, at(point.x, point.low)[1], px, at(point.x, point.high)[1], "whisker"))
        if one.marks:
            parts.append(mark(px, py, one.colour, f"{one.name} {point.text}".strip()))
    return f'<g class="{colour_class(one.colour)}">{"".join(parts)}</g>'


def colour_class(number: int) -> str:
    """The page's class of a model's colour."""
    return f"c{number % NUM_COLOURS}"


def mark(x: float, y: float, number: int, title: str = "") -> str:
    """The mark of a model. Colours repeat after 7 models, but the pair of colour and shape only after 28."""
    r, shape = 4.5, (number % NUM_COLOURS + number // NUM_COLOURS) % 4
    content = f"<title>{escape(title)}</title>" if title else ""
    if shape == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{content}</circle>'
    points = {
        1: [(-r, -r), (r, -r), (r, r), (-r, r)],
        2: [(0, -r - 1), (r + 1, r), (-r - 1, r)],
        3: [(0, -r - 1.5), (r + 1.5, 0), (0, r + 1.5), (-r - 1.5, 0)],
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
    return f'<polygon class="mark" points="{path}">{content}</polygon>'


def bars(groups: dict[str, list[Bar]], label: str) -> str:
    """Horizontal bars of shares in [0, 1]: one group a row, one bar a model, whiskers, ticks for the controls.

    Args:
        groups: {name of the row: one bar per model that has it}.
        label: what a reader who cannot see the chart is told.
    """
    left, top, span = 92, 4, WIDTH - 92 - 58
    widest = max(len(row) for row in groups.values())
    thick = 14 if widest == 1 else max(7, 26 // widest)
    parts, y = [], float(top)

    def at(share: float) -> float:
        return left + span * min(max(share, 0.0), 1.0)

    for name, row in groups.items():
        tall = (thick + 2) * len(row)
        parts.append(_text(left - 6, y + 4 + tall / 2 + 4, name.replace("_", " "), "end"))
        for i, bar in enumerate(row):
            parts.append(_bar(bar, at, y + 4 + (thick + 2) * i, thick))
        y += tall + 8
    grid = [_line(at(x), top, at(x), y, "grid") for x in (0, 0.25, 0.5, 0.75, 1)]
    ticks = [_text(at(x), y + 14, f"{x:.0%}", "middle", "soft") for x in (0, 0.5, 1)]
    return _svg(grid + parts + ticks, y + 20, label)


def _bar(bar: Bar, at: Callable[[float], float], y: float, thick: float) -> str:
    middle, width = y + thick / 2, at(bar.value) - at(0)
    parts = [f'<rect class="bar" x="{at(0):.1f}" y="{y:.1f}" width="{width:.1f}" height="{thick}" rx="1.5"/>']
    for control in ("real", "chance", "reconstruction"):
        level = getattr(bar, control)
        if level is not None:
            parts.append(_line(at(level), y - 2, at(level), y + thick + 2, f"tick {control}"))
    if bar.low is not None and bar.high is not None:
        parts.append(_line(at(bar.low), middle, at(bar.high), middle, "whisker"))
        parts += [_line(at(end), middle - 2.5, at(end), middle + 2.5, "whisker") for end in (bar.low, bar.high)]
    size = ' style="font-size:10px"' if thick < 10 else ""
    parts.append(f'<text x="{WIDTH - 2}" y="{middle + 4:.1f}" text-anchor="end"{size}>{bar.value:.1%}</text>')
    return f'<g class="{colour_class(bar.colour)}">{"".join(parts)}</g>'


def histogram(values: dict[str, Sequence[float]], classes: dict[str, str], x_label: str, label: str) -> str:
    """Outlines of shares per bin, all series over the same bins.

    Args:
        values: {name: numbers}; `classes` {name: class of its colour}.
    """
    everything = np.concatenate([np.asarray(v, dtype=float) for v in values.values()])
    x = nice_axis(everything.tolist(), x_label)
    edges = np.linspace(x.low, x.high, 25)
    shares = {name: np.histogram(v, edges)[0] / max(len(v), 1) for name, v in values.items()}
    y = nice_axis([0.0, max(float(s.max()) for s in shares.values())], "share of images", "%", zero=True)
    at, parts = _frame(x, y, HEIGHT)
    for name, share in shares.items():
        path = [at(edges[0], 0)]
        for i, s in enumerate(share):
            path += [at(edges[i], float(s)), at(edges[i + 1], float(s))]
        path.append(at(edges[-1], 0))
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in path)
        parts.append(f'<g class="{classes[name]}"><polygon class="area" points="{points}"/></g>')
    return _svg(parts, HEIGHT, label)


def _svg(parts: list[str], height: float, label: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    extra = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
