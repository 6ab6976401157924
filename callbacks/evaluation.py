"""Alignment during training: do the images show what their captions say, and since which step?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist

from callbacks.steps import due, evaluating
from evaluators.alignment import SceneAlignment, summary
from evaluators.images import to_uint8
from evaluators.prompts import sample_seed


class Evaluate(pl.Callback):
    """Logs `eval/<split>/<skill>` of captioned scenes, drawn with the averaged weights, every so many optimiser steps.

    Prompts and seeds are the same at every step and in every run of this data, so that curves can be compared. Each
    process draws its share. Data without scene prompts, and a module that cannot sample yet, are left in peace.

    Args:
        every_steps: optimiser steps between two evaluations; also at the end.
        n: prompts per split; with 128 a share of one half is known to 9 points (95 %).
        splits: names of scene splits.
        batch_size: images drawn at once, per process.
        options: passed to the module's sample(), for instance {num_steps: 16}.
    """

    def __init__(
        self,
        every_steps: int = 1000,
        n: int = 128,
        splits: Sequence[str] = ("iid",),
        batch_size: int = 64,
        options: dict[str, Any] | None = None,
    ) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"callbacks.evaluate: n={n} and batch_size={batch_size} must be at least 1")
        self.every_steps, self.n, self.splits, self.batch_size = every_steps, n, list(splits), batch_size
        self.options = dict(options or {})

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not due(trainer, module, self.every_steps) or not hasattr(trainer.datamodule, "prompts"):
            return
        if module.sampling_refusal() is not None:
            return
        line: dict[str, float] = {"images": module.images_seen}
        with evaluating(trainer, module):
            for split in self.splits:
                rows = summary(self._scores(trainer, module, split))
                line |= {f"eval/{split}/{skill}": row["mean"] for skill, row in rows.items()}
        for logger in trainer.loggers:
            logger.log_metrics(line, step=module.optimizer_steps)

    def _scores(self, trainer: pl.Trainer, module: Any, split: str) -> list[dict[str, float]]:
        """Skills of every prompt of a split, on every process."""
        pairs = trainer.datamodule.prompts(split, self.n)
        mine = list(range(self.n))[trainer.global_rank :: trainer.world_size]
        alignment = SceneAlignment(controls=False)
        for start in range(0, len(mine), self.batch_size):
            part = mine[start : start + self.batch_size]
            captions = [pairs[i][0] for i in part]
            image = module.sample(captions, seeds=[sample_seed(0, split, i) for i in part], **self.options)
            image_u8 = to_uint8(image.float().cpu())
            alignment.update(image_u8, image_u8, captions, specs=[pairs[i][1].to_dict() for i in part])
        scores: list[dict[str, float]] = alignment.details()["scores"]
        if trainer.world_size == 1:
            return scores
        shares: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(shares, scores)
        return [row for share in shares for row in share]
