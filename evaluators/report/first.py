"""The report page: one HTML file that shows everything without scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from evaluators.report.first_charts import CHANCE, MODEL, REAL, bars, line_chart, png_uri


@dataclass(frozen=True)
class Example:
    """One generated image uint8 (H, W, 3), its prompt, its seed and the skills that are wrong (None: not judged)."""

    image_u8: np.ndarray
    caption: str | None
    seed: int
    wrong: list[str] | None


def render(result: dict[str, Any], examples: dict[str, list[Example]]) -> str:
    """The page as text.

    Args:
        result: what evaluate.py writes to metrics.json: `title`, `facts` {name: text}, `not_computed` {metric: reason},
            `splits` {split: {n, metrics {metric: {value, unit, higher_is_better, …}}, details}}, `sweep` {option,
            split, n, metrics, points}, `cost` {name: text}, `notes` [text], `reproduce`.
        examples: per split, the first images, not chosen.
    """
    sections = [
        _header(result),
        _section("Scoreboard", _scoreboard(result["splits"])),
        _section("Alignment", _alignment(result["splits"])),
        _section("Quality against guidance", _sweep(result.get("sweep"))),
        _section("Samples", _samples(examples)),
        _section("Asked and found: number of objects", _confusions(result["splits"])),
        _section("Cost", _facts(result["cost"])),
        _section("How to read these numbers", "".join(f"<p>{escape(note)}</p>" for note in result["notes"])),
        _section("How to reproduce", f"<pre>{escape(result['reproduce'])}</pre>"),
    ]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(result['title'])}</title><style>{STYLE}</style></head><body><main>"
    )
    return head + "".join(sections) + "</main></body></html>\n"


def _header(result: dict[str, Any]) -> str:
    lacking = "".join(
        f"<li><b>{escape(metric)}</b>: not computed: {escape(reason)}</li>"
        for metric, reason in result["not_computed"].items()
    )
    absent = f'<ul class="absent">{lacking}</ul>' if lacking else ""
    return f"<header><h1>{escape(result['title'])}</h1>{_facts(result['facts'])}{absent}</header>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _facts(facts: dict[str, Any]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""


def show(value: float, unit: str) -> str:
    """A share as a percentage, anything else with three significant digits."""
    return f"{value:.1%}" if unit == "%" else (f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}")


def _scoreboard(splits: dict[str, Any]) -> str:
    """Rows are metrics and columns splits; each cell has its interval and its controls, so it can be read alone."""
    metrics = list(dict.fromkeys(metric for split in splits.values() for metric in split["metrics"]))
    if not metrics:
        return ""
    head = "".join(f"<th>{escape(name)}<small>n = {split['n']}</small></th>" for name, split in splits.items())
    body = []
    for metric in metrics:
        first = next(split["metrics"][metric] for split in splits.values() if metric in split["metrics"])
        arrow = "↑ higher is better" if first["higher_is_better"] else "↓ lower is better"
        cells = "".join(_cell(split["metrics"].get(metric), split["n"]) for split in splits.values())
        body.append(f"<tr><th>{escape(metric)}<small>{arrow}</small></th>{cells}</tr>")
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _cell(row: dict[str, Any] | None, n: int) -> str:
    if row is None:
        return "<td>–</td>"
    unit, first = row["unit"], []
    if "low" in row and "high" in row:
        first.append(f"{show(row['low'], unit)} to {show(row['high'], unit)}")
    if row.get("n", n) != n:
        first.append(f"{row['n']:g} images")
    controls = [
        f"{name} {show(row[key], unit)}" for key, name in (("real", "real images"), ("chance", "chance")) if key in row
    ]
    lines = ("".join(f"<span>{part}</span>" for part in parts) for parts in (first, controls) if parts)
    small = "".join(f"<small>{line}</small>" for line in lines)
    return f"<td><b>{show(row['value'], unit)}</b>{small}</td>"


def _alignment(splits: dict[str, Any]) -> str:
    charts = []
    for name, split in splits.items():
        rows = {metric: row for metric, row in split["metrics"].items() if row["unit"] == "%"}
        if rows:
            said = ", ".join(f"{metric} {row['value']:.1%}" for metric, row in rows.items())
            charts.append(f"<figure><figcaption>{escape(name)}</figcaption>{bars(rows, f'{name}: {said}')}</figure>")
    if not charts:
        return ""
    legend = (
        f'<p class="legend"><i style="background:{MODEL}"></i>this model, with its 95 % interval '
        f'<i style="background:{REAL}"></i>real images read by the same parser '
        f'<i style="background:{CHANCE}"></i>chance: the same images against other captions</p>'
    )
    return legend + f'<div class="charts">{"".join(charts)}</div>'


def _sweep(sweep: dict[str, Any] | None) -> str:
    if not sweep or not sweep["points"]:
        return ""
    option, points = sweep["option"], sweep["points"]
    charts = []
    for metric, unit in sweep["metrics"].items():
        if any(metric not in point for point in points):
            continue
        said = f"{metric} on {sweep['split']}: " + ", ".join(
            f"{p[option]:g} gives {show(p[metric], unit)}" for p in points
        )
        chart = line_chart(points, option, metric, said, unit == "%")
        charts.append(f"<figure><figcaption>{escape(metric)} ({escape(sweep['split'])})</figcaption>{chart}</figure>")
    note = f"real images. n = {sweep['n']} at every point, the same prompts and seeds."
    return (
        f'<p class="legend"><i style="background:{REAL}"></i>{note}</p>'
        + f'<div class="charts">{"".join(charts)}</div>'
    )


def _samples(examples: dict[str, list[Example]]) -> str:
    blocks = []
    for split, items in examples.items():
        cards = "".join(_sample(item) for item in items)
        blocks.append(
            f'<h3>{escape(split)}: the first {len(items)} prompts, not chosen</h3><div class="grid">{cards}</div>'
        )
    return "".join(blocks)


def _sample(item: Example) -> str:
    caption = item.caption or "no caption"
    verdict = ""
    if item.wrong is not None:
        verdict = (
            f'<p class="no">✗ {escape(", ".join(item.wrong))}</p>' if item.wrong else '<p class="yes">✓ all right</p>'
        )
    picture = f'<img src="{png_uri(item.image_u8)}" alt="generated for: {escape(caption, quote=True)}">'
    return (
        f"<figure>{picture}<figcaption>{escape(caption)}</figcaption>{verdict}<small>seed {item.seed}</small></figure>"
    )


def _confusions(splits: dict[str, Any]) -> str:
    charts = [
        f"<figure><figcaption>{escape(name)}</figcaption>{_confusion(np.asarray(split['details']['count_confusion']))}</figure>"
        for name, split in splits.items()
        if np.any(split.get("details", {}).get("count_confusion", 0))
    ]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _confusion(counts: np.ndarray) -> str:
    last = len(counts) - 1
    asked = [i for i in range(last + 1) if counts[i].any()]
    names = [f"{i}" if i < last else f"{i}+" for i in range(last + 1)]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for i in asked:
        shares = counts[i] / counts[i].sum()
        cells = "".join(
            f'<td{" class=same" if i == j else ""} style="background:rgba(0,114,178,{share:.2f})">'
            f"{counts[i, j] or ''}</td>"
            for j, share in enumerate(shares)
        )
        rows.append(f"<tr><th>{names[i]}</th>{cells}</tr>")
    table = f"<tr><th>asked \\ found</th>{head}</tr>{''.join(rows)}"
    return f'<div class="scroll"><table class="confusion">{table}</table></div>'


STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--soft:#5d6670;--line:#d9dee3;--panel:#f5f7f9}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--paper:#15181b;--soft:#9aa4ad;--line:#343a40;--panel:#1e2226}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink)}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 12px}
h2{font-size:19px;margin:36px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:18px 0 8px}
small,.legend,dt{color:var(--soft);font-size:12.5px}
td small,th small{display:block;font-weight:400}
td span{display:inline-block;white-space:nowrap;margin-right:12px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(210px,46%),1fr));gap:10px 18px;margin:0}
dd,figure small{margin:0;overflow-wrap:anywhere}
.absent{background:var(--panel);border-left:4px solid #D55E00;margin:16px 0 0;padding:10px 12px 10px 30px}
.absent{overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:separate;border-spacing:0;min-width:60%}
.confusion{min-width:0}
thead th:first-child,tbody th{position:sticky;left:0;background:var(--paper)}
th,td{text-align:left;vertical-align:top;padding:7px 18px 7px 0;border-bottom:1px solid var(--line);white-space:nowrap}
@media(max-width:600px){
th,td{white-space:normal;padding-right:12px;min-width:112px}
tbody th{max-width:118px;overflow-wrap:anywhere}
}
td b{font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:20px 28px}
figure{margin:0}
.charts figcaption{font-weight:600;margin-bottom:4px}
svg{max-width:100%;height:auto}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:currentColor}
.legend i{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 5px 0 14px;vertical-align:-1px}
.legend i:first-child{margin-left:0}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:16px 14px}
.grid img{display:block;width:100%;image-rendering:pixelated;border-radius:4px}
.grid figcaption{font-size:13.5px;line-height:1.35;margin-top:6px}
.grid p{margin:2px 0 0;font-size:13px}
.yes{color:#00795a}.no{color:#b84a00}
@media(prefers-color-scheme:dark){.yes{color:#3fc79d}.no{color:#f08a4b}}
.confusion td,.confusion th{padding:4px 8px;text-align:center;min-width:30px;font-variant-numeric:tabular-nums}
.confusion .same{outline:2px solid #009E73;outline-offset:-2px}
pre{background:var(--panel);padding:12px;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
"""
