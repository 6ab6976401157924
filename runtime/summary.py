"""What a run says at its end: figures, where its pictures and checkpoint are, and what can be typed next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from runtime.run_dir import shown

SHOWN = ("train/loss", "val", "eval")  # beginnings of the figures that matter; the rest is in metrics.jsonl
LONG_WAIT = 0.2  # share of the time beyond which the data is worth a word
LINE = 110  # characters of figures


def summary(path: Path, module: Any, metrics: Mapping[str, Any], train_sec: float, prompts: Sequence[str] = ()) -> str:
    """The lines.

    Args:
        path: the run's folder.
        metrics: newest value of every metric, by names such as `eval/iid/all_correct`.
        train_sec: seconds of training, over all sessions.
        prompts: that the data suggests for a model of text.
    """
    rows = [("finished", f"step {module.optimizer_steps:,}  images {module.images_seen:,}  {timedelta(seconds=round(train_sec))} of training")]
    if (wait := metrics.get("time/data_wait", 0.0)) > LONG_WAIT:
        rows.append(("data", f"{wait:.0%} of the last steps' time was spent waiting for data: more data.num_workers may help"))
    rows += figures(metrics)
    for name, pattern in (("pictures", "samples/*.png"), ("film", "samples.gif"), ("report", "*/report.html"), ("checkpoint", "checkpoints/*.ckpt")):
        if found := sorted(path.glob(pattern), key=lambda file: file.stat().st_mtime):
            rows.append((name, shown(found[-1])))
    rows += zip(("next", ""), commands(path, module, prompts))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def figures(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Figures that matter, those of one split in a row, wrapped."""
    groups: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if name.startswith(SHOWN) and isinstance(value, float):
            group, _, metric = name.rpartition("/")
            groups.setdefault(group, []).append(f"{metric} {value:.4g}")
    rows = []
    for group, parts in groups.items():
        lines = [parts[0]]
        for part in parts[1:]:
            if len(lines[-1]) + len(part) > LINE:
                lines.append(part)
            else:
                lines[-1] += f"  {part}"
        rows += zip([group, *[""] * (len(lines) - 1)], lines)
    return rows


def commands(path: Path, module: Any, prompts: Sequence[str]) -> list[str]:
    """What a user would type next; where nothing can be drawn yet, or ever, why."""
    if (reason := module.sampling_refusal()) is not None:
        return [reason]
    ckpt = f"ckpt={shlex.quote(shown(path))}"
    evaluate = f"python evaluate.py {ckpt}"
    if getattr(module, "conditioning", "none") != "text":
        return [f"python sample.py {ckpt} n=16", evaluate]
    prompt = (prompts or ("a red circle",))[0].replace('"', "'")
    return [f'python sample.py {ckpt} prompt="{prompt}" n=4', evaluate]
