"""Small inline pictures for the report: SVG charts and PNG data URIs, without any script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

WIDTH = 340  # every chart is drawn for a phone; wide pages put several side by side
INK, MODEL, REAL, CHANCE = "currentColor", "#0072B2", "#009E73", "#D55E00"  # Okabe and Ito's colour-blind-safe set


def png_uri(image_u8: np.ndarray) -> str:
    """`data:` address of an image uint8 (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image_u8).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def bars(rows: dict[str, dict[str, float]], label: str) -> str:
    """Horizontal bars of shares in [0, 1], with 95 % whiskers and ticks for real images and chance.

    Args:
        rows: {name: {value, and where known low, high, real, chance}}.
        label: what a reader who cannot see the chart is told.
    """
    left, top, step, span = 84, 4, 24, WIDTH - 84 - 54

    def at(share: float) -> float:
        return left + span * min(max(share, 0.0), 1.0)

    height = top + step * len(rows) + 20
    parts = [_line(at(x), top, at(x), height - 18, INK, 1, 0.15) for x in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_text(at(x), height - 5, f"{x:.0%}", "middle", 0.6) for x in (0, 0.5, 1)]
    for i, (name, row) in enumerate(rows.items()):
        y = top + step * i + step / 2
        parts.append(_text(left - 6, y + 4, name, "end"))
        parts.append(
            f'<rect x="{left}" y="{y - 7:.1f}" width="{at(row["value"]) - left:.1f}" height="14" '
            f'fill="{MODEL}" rx="2"/>'
        )
        if "low" in row and "high" in row:
            parts.append(_line(at(row["low"]), y, at(row["high"]), y, INK, 1.5))
            parts += [_line(at(row[end]), y - 3, at(row[end]), y + 3, INK, 1.5) for end in ("low", "high")]
        for control, colour in (("real", REAL), ("chance", CHANCE)):
            if control in row:
                parts.append(_line(at(row[control]), y - 10, at(row[control]), y + 10, colour, 3))
        parts.append(_text(WIDTH - 2, y + 4, f"{row['value']:.1%}", "end"))
    return _svg(parts, height, label)


def line_chart(points: Sequence[dict[str, float]], x: str, y: str, label: str, percent: bool) -> str:
    """One metric against one sampling option, each point labelled; whiskers and the level of real images if known.

    Args:
        points: each {x: option, y: value, and where known y_low, y_high, y_real}.
    """
    left, right, top, bottom, height = 50, 12, 12, 34, 200
    xs = [point[x] for point in points]
    levels = [point[key] for point in points for key in (y, f"{y}_low", f"{y}_high", f"{y}_real") if key in point]
    low, high = (0.0, max(max(levels), 0.01)) if min(levels) >= 0 else (min(levels), max(levels))
    x_low, x_high = min(xs), max(xs)

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (py - low) / (high - low) if high > low else 0.5
        return left + 10 + across * (WIDTH - left - right - 20), top + (1 - up) * (height - top - bottom)

    def show(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.3g}"

    parts = [
        _line(left, at(x_low, v)[1], WIDTH - right, at(x_low, v)[1], INK, 1, 0.15)
        for v in (low, (low + high) / 2, high)
    ]
    parts += [_text(left - 6, at(x_low, v)[1] + 4, show(v), "end", 0.6) for v in (low, (low + high) / 2, high)]
    if f"{y}_real" in points[0]:
        level = at(x_low, points[0][f"{y}_real"])[1]
        parts.append(_line(left, level, WIDTH - right, level, REAL, 2))
    places = [at(point[x], point[y]) for point in points]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{MODEL}" stroke-width="2"/>')
    for point, (px, py) in zip(points, places):
        if f"{y}_low" in point and f"{y}_high" in point:
            parts.append(
                _line(px, at(point[x], point[f"{y}_low"])[1], px, at(point[x], point[f"{y}_high"])[1], INK, 1.5)
            )
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{MODEL}"><title>{show(point[y])}</title></circle>'
        )
        parts.append(_text(px, height - bottom + 16, f"{point[x]:g}", "middle", 0.8))
    parts.append(_text((left + WIDTH - right) / 2, height - 3, x.replace("_", " "), "middle", 0.8))
    return _svg(parts, height, label)


def _svg(parts: list[str], height: float, label: str) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    return f'<svg {size} role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, opacity: float = 1.0) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def _text(x: float, y: float, text: str, anchor: str, opacity: float = 1.0) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" opacity="{opacity}">{escape(text)}</text>'
