"""Evaluation during training: the evaluators of evaluate.py every so often, on few samples of the averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.steps import due, evaluating
from contracts import HasPrompts
from evaluation.metrics.alignment import SceneAlignment
from evaluation.metrics.base import Evaluator
from evaluation.metrics.images import to_uint8
from evaluation.metrics.prompt_set import PromptSet, load_prompts, sample_seed
from evaluation.metrics.run_evaluators import Ranks, gather, measure


class Evaluate(pl.Callback):
    """Logs `eval/<split>/<metric>`, drawn with the averaged weights, every so many optimiser steps.

    Prompts and seeds are the same at every step and in every run of this data, so that curves can be compared. Each
    process draws its share. A module that cannot sample yet is skipped. A number that cannot be
    computed is reported once.

    Args:
        every_steps: optimiser steps between two evaluations; also at the end.
        n: prompts per split; with 128 a share of one half is known to 9 points (95 %).
        splits: names of splits; None is iid for captioned scenes, else val.
        batch_size: images drawn at once, per process.
        options: passed to the module's sample(), for instance {num_steps: 16}.
        evaluators: by name; None is alignment for captioned scenes, and nothing for other data.
        train_images: training images looked at for copies, at most.
    """

    def __init__(
        self,
        every_steps: int = 1000,
        n: int = 128,
        splits: Sequence[str] | None = None,
        batch_size: int = 64,
        options: dict[str, Any] | None = None,
        evaluators: dict[str, Evaluator | None] | None = None,
        train_images: int = 1000,
    ) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"callbacks.evaluate: n={n} and batch_size={batch_size} must be at least 1")
        self.every_steps, self.n, self.batch_size = every_steps, n, batch_size
        self.splits = None if splits is None else list(splits)
        self.options, self.train_images = dict(options or {}), train_images
        self.evaluators = None if evaluators is None else {k: e for k, e in evaluators.items() if e is not None}
        self._prompts: dict[str, PromptSet] = {}
        self._told: set[str] = set()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not due(trainer, module, self.every_steps):
            return
        scenes = isinstance(trainer.datamodule, HasPrompts)
        # Without the controls, which do not change while training: half the time.
        default: dict[str, Evaluator] = {"alignment": SceneAlignment(controls=False)} if scenes else {}
        evaluators = default if self.evaluators is None else self.evaluators
        if not evaluators or module.sampling_refusal() is not None:
            return
        line: dict[str, float] = {"images": module.images_seen}
        for split in self.splits or (["iid"] if scenes else ["val"]):
            line |= self._numbers(trainer, module, split, evaluators)
        for logger in trainer.loggers:
            logger.log_metrics(line, step=module.optimizer_steps)

    def _numbers(
        self, trainer: pl.Trainer, module: Any, split: str, evaluators: dict[str, Evaluator]
    ) -> dict[str, float]:
        """`eval/<split>/<metric>` of every number, on process 0."""
        ranks = Ranks(trainer.global_rank, trainer.world_size, gather) if trainer.world_size > 1 else Ranks()
        if split not in self._prompts:
            needs = frozenset().union(*(e.needs for e in evaluators.values()))
            prompts = load_prompts(trainer.datamodule, split, self.n, needs, self.train_images)
            self._prompts[split] = prompts.asked(module.conditioning)
        prompts, mine = self._prompts[split], ranks.share(self.n)
        drawn: dict[int, Tensor] = {}
        # All images first: measuring in the run's precision would measure something else.
        with evaluating(trainer, module, together=True):
            for start in range(0, len(mine), self.batch_size):
                part = mine[start : start + self.batch_size]
                seeds = [sample_seed(0, split, i) for i in part]
                image = module.sample(prompts.request(part), seeds=seeds, **self.options)
                drawn |= dict(zip(part, to_uint8(image.float().cpu())))
        device = str(getattr(module, "device", "cpu"))
        found = measure(
            evaluators,
            prompts,
            lambda indices: torch.stack([drawn[i] for i in indices]),
            device=device,
            ranks=ranks,
        )
        for metric, why in found.not_computed.items():
            if metric not in self._told:
                print(f"callbacks.evaluate: {metric}: not computed: {why}", flush=True)
                self._told.add(metric)
        return {f"eval/{split}/{metric}": row["value"] for metric, row in found.metrics.items()}
