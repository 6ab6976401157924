"""Puts the newest measured tables into benchmarks/README.md: python -m benchmarks.tables."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.common import REPO, RESULTS, run

BENCHMARKS = ("speed_unet", "quality", "speed_evaluation", "vae_pythae", "gan_mimicry")


def fill(text: str, name: str, block: str, page: str = "benchmarks/README.md") -> str:
    """The page with what stands between `<!-- name -->` and `<!-- /name -->` replaced; ValueError without them."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no <!-- {name} --> … <!-- /{name} --> to fill")
    return pattern.sub(lambda found: found[1] + block + found[2], text)


def describe(result: dict[str, Any]) -> str:
    """One sentence: where, when and with what it was measured."""
    where, settings = result["machine"], result["settings"]
    versions = {**result["versions"], **{f"{k} (peer)": v for k, v in result.get("peer_versions", {}).items()}}
    load = f", load before the start {where['load_before']:.1f}" if where["load_before"] is not None else ""
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} threads{load}; "
        f"{result['date']}, commit {result['commit']}; "
        f"{', '.join(f'{k} {v}' for k, v in versions.items())}; {', '.join(f'{k} {v}' for k, v in settings.items())}."
    )


def main() -> None:
    page = REPO / "benchmarks" / "README.md"
    text = page.read_text()
    for name in BENCHMARKS:
        source: Path = RESULTS / f"{name}.json"
        if not source.exists():
            print(f"{name}: no {source.relative_to(REPO)} yet")
            continue
        result = json.loads(source.read_text())
        table = importlib.import_module(f"benchmarks.{name}").table(result)
        text = fill(text, name, f"\n{table}\n\n{describe(result)}\n\n")
        print(f"{name}: filled in from {source.relative_to(REPO)}")
    page.write_text(text)


if __name__ == "__main__":
    run(main)
