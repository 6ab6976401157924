"""One option at a time over several values, on the first split: quality against guidance, steps and samplers."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from evaluation.drawing import OPTIONS, SampleDrawer, sampling_options, setting, shown
from evaluation.metrics.base import Evaluator
from evaluation.metrics.run_evaluators import measure
from evaluation.output import EvaluatedSplit, Sweep


def run_sweeps(
    cfg: DictConfig, sampler: SampleDrawer, split: EvaluatedSplit, evaluators: dict[str, Evaluator], name: str
) -> list[Sweep]:
    """The split measured again at every value of every swept option, the same prompts and seeds at each."""
    sweeps = []
    for option in OPTIONS:
        values = cfg.sweep[option]
        if values is None:
            continue
        given = {key: shown(value) for key, value in sampling_options(cfg).items() if key != option}
        series = ", ".join([name, *(f"{key} {value}" for key, value in given.items())])
        sweep = Sweep(option, split.prompts.split, len(split.prompts), series)
        for value in values:
            overrides = {option: setting(cfg, option, value)}
            store = sampler.draw(split.prompts, overrides)
            measured = measure(
                evaluators, split.prompts, store.read, device=sampler.device, ranks=sampler.ranks
            )
            if sampler.ranks.rank == 0:
                sweep.add(value, measured, sampler.cost(split.prompts, store, overrides))
        sweeps.append(sweep)
    return sweeps
