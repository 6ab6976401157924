"""Sweeps: measures the first split again at several values of an option, one option at a time."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from evaluation.drawing import SampleDrawer, swept
from evaluation.metrics.base import Evaluator
from evaluation.metrics.run_evaluators import measure
from evaluation.output import EvaluatedSplit, Sweep
from runtime.options import given_options, shown_options, swept_option


def run_sweeps(
    cfg: DictConfig, sampler: SampleDrawer, split: EvaluatedSplit, evaluators: dict[str, Evaluator], name: str
) -> list[Sweep]:
    """Measures the split again at every value of every swept option, with the same prompts and seeds."""
    sweeps = []
    for option, values in swept(cfg).items():
        given = {key: value for key, value in shown_options(given_options(cfg)).items() if key != option}
        series = ", ".join([name, *(f"{key} {value}" for key, value in given.items())])
        sweep = Sweep(option, split.prompts.split, len(split.prompts), series)
        for value in values:
            overrides = {option: swept_option(sampler.module, option, value, cfg.sweep.stage)}
            store = sampler.draw(split.prompts, overrides)
            measured = measure(
                evaluators, split.prompts, store.read, device=sampler.device, ranks=sampler.ranks
            )
            if sampler.ranks.rank == 0:
                sweep.add(value, measured, sampler.cost(split.prompts, store, overrides))
        sweeps.append(sweep)
    return sweeps
