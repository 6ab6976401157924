"""Runs evaluators over one set of prompts and their generated images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from evaluators.base import Evaluator, NotComputed, by_metric
from evaluators.prompts import PromptSet


@dataclass
class Measured:
    """Numbers of one split: per metric its value, unit, direction, interval, controls and protocol."""

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def measure(
    evaluators: dict[str, Evaluator],
    prompts: PromptSet,
    fake: Callable[[list[int]], Tensor],
    batch_size: int = 64,
    device: str = "cpu",
) -> Measured:
    """Every evaluator's numbers for `fake(indices)`, uint8 (B, C, H, W); a reason for what cannot be had."""
    found = Measured()
    for evaluator in evaluators.values():
        evaluator.reset()
        lacking = [name for name in sorted(evaluator.needs) if getattr(prompts, name, None) is None]
        try:
            if lacking:
                raise NotComputed(f"needs {' and '.join(lacking)}, which this data or this model does not have")
            for start in range(0, len(prompts), batch_size):
                indices = list(range(start, min(start + batch_size, len(prompts))))
                _update(evaluator, prompts, indices, fake(indices), device)
            rows = by_metric(evaluator.compute())
        except NotComputed as reason:
            found.not_computed[evaluator.headlines[0]] = str(reason)
            continue
        facts = {
            "unit": evaluator.unit,
            "higher_is_better": evaluator.higher_is_better,
            "protocol": evaluator.protocol(),
        }
        found.metrics |= {m: row | facts | {"headline": m in evaluator.headlines} for m, row in rows.items()}
        found.details |= evaluator.details()
    return found


def _update(evaluator: Evaluator, prompts: PromptSet, indices: list[int], fake: Tensor, device: str) -> None:
    part = slice(indices[0], indices[-1] + 1)
    extra: dict[str, Any] = {}
    if prompts.reference is not None:
        extra["reference"] = prompts.reference[part].to(device)
    if prompts.specs is not None:
        extra["specs"] = prompts.specs[part]
    captions = prompts.captions[part] if prompts.captions is not None else None
    evaluator.update(prompts.real[part].to(device), fake.to(device), captions, **extra)
