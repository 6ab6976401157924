"""The foot of the page: what was measured how, how to do it again, and the numbers as data."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from evaluation.report.html_parts import Model, folded, metric, metric_names, split_names, table
from evaluation.report.scoreboard import flat

PER_IMAGE = ("scores", "wrong", "read")
LARGEST = 400_000  # characters of JSON that go into the page


def notes(models: Sequence[Model]) -> str:
    """Definitions and limits, and each metric's protocol to open."""
    texts = dict.fromkeys(text for model in models for text in model.result.data.get("notes") or [])
    rows, seen = [], set()
    for split in split_names(models):
        for name in metric_names(models, split):
            for model in models:
                row = metric(model, split, name) or {}
                protocol = ", ".join(f"{k} {v}" for k, v in flat(row.get("protocol") or {}).items() if v is not None)
                identity = row.get("protocol_id") or "–"
                if protocol and (name, protocol) not in seen:
                    seen.add((name, protocol))
                    rows.append([escape(name), f'<td class="long">{escape(protocol)}</td>', escape(identity)])
    protocols = folded("Protocols", table(["metric", "measured with", "id"], rows, label="protocols")) if rows else ""
    return "".join(f"<p>{escape(text)}</p>" for text in texts) + protocols


def reproduce(models: Sequence[Model]) -> str:
    """The commands, and the data behind the page."""
    commands = dict.fromkeys(str(m.result.data["reproduce"]) for m in models if m.result.data.get("reproduce"))
    text = "\n".join(commands)
    return (f"<pre>{escape(text)}</pre>" if text else "") + _download(models)


def _download(models: Sequence[Model]) -> str:
    """All results as one JSON file inside the page; verdicts per image stay out where they would make it heavy."""
    data, left_out = [_plain(model.result.data) for model in models], ""
    text = json.dumps(data, separators=(",", ":"))
    if len(text) > LARGEST:
        for result in data:
            for split in result["splits"].values():
                split["details"] = {k: v for k, v in split.get("details", {}).items() if k not in PER_IMAGE}
        text, left_out = json.dumps(data, separators=(",", ":")), ", without the verdicts per image"
    address = "data:application/json;base64," + base64.b64encode(text.encode()).decode()
    size = f"{len(text) / 1000:,.0f} kB"
    return f'<p><a download="results.json" href="{address}">All numbers as JSON</a> ({size}{left_out})</p>'


def _plain(value: Any) -> Any:
    """The same without embedded pictures."""
    if isinstance(value, dict):
        return {key: _plain(nested) for key, nested in value.items() if not _picture(nested)}
    return [_plain(nested) for nested in value if not _picture(nested)] if isinstance(value, list) else value


def _picture(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:")
