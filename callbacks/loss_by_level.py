"""The validation loss of diffusion stages by noise level, as numbers and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw

from callbacks.pictures import publish
from callbacks.steps import due, evaluating
from callbacks.validate import Validate
from contracts import HasLossByLevel

WIDTH, LOW, HIGH = 2, -14, 14  # of the bins of log-SNR; what lies beyond goes into the outermost
BINS = (HIGH - LOW) // WIDTH


class LossByLevel(Validate):
    """Logs `val/loss_by_level/<log-SNR at a bin's middle>` every so many optimiser steps and at the end, with a picture.

    It takes the noise levels that Validate takes, so at fixed weights the numbers are always the same. Of a cascade the
    stage's name stands before the bin. A module without noise levels is left alone.

    Args:
        dir: folder of the pictures, `step=….png`.
        every_steps: optimiser steps between two pictures.
        max_batches: validation batches per process; None uses all.
    """

    def __init__(self, dir: str, every_steps: int = 1000, max_batches: int | None = 8) -> None:
        super().__init__(every_steps, max_batches)
        self.dir = Path(dir)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        if not isinstance(module, HasLossByLevel) or not due(trainer, module, self.every_steps):
            return
        if trainer.datamodule.val_dataset is None or not len(trainer.datamodule.val_dataset):
            return
        line: dict[str, float] = {}
        found = self.means(trainer, module)
        for stage, means in found.items():
            prefix = "val/loss_by_level/" + (f"{stage}/" if len(found) > 1 else "")
            line |= {f"{prefix}{middle}": value for middle, value in means.items()}
            if trainer.is_global_zero and means:
                self.show(trainer, module, stage if len(found) > 1 else "", means)
        for logger in trainer.loggers:
            logger.log_metrics({"images": module.images_seen, **line}, step=module.optimizer_steps)

    def means(self, trainer: pl.Trainer, module: Any) -> dict[str, dict[int, float]]:
        """Stage -> middle of a bin -> mean loss of the averaged weights; bins without images are left out."""
        sums: dict[str, torch.Tensor] = {}
        images = 0
        with evaluating(trainer, module, together=True):
            quantiles = self.quantiles(trainer)
            for i, batch in enumerate(trainer.datamodule.val_dataloader()):
                if self.max_batches is not None and i >= self.max_batches:
                    break
                batch = trainer.strategy.batch_to_device(batch)
                n = batch["image"].shape[0]
                batch["quantile"] = quantiles[images : images + n].to(module.device)
                for stage, (log_snr, loss) in module.loss_by_level(batch).items():
                    sums[stage] = sums.get(stage, 0) + binned(log_snr, loss)
                images += n
        names = sorted(sums)
        totals = torch.stack([sums[name] for name in names])  # (stages, 2, BINS)
        if trainer.world_size > 1:
            totals = trainer.strategy.reduce(totals.to(module.device), reduce_op="sum")
        found = {}
        for name, (loss, count) in zip(names, totals.cpu().tolist()):
            found[name] = {LOW + WIDTH * k + WIDTH // 2: loss[k] / count[k] for k in range(BINS) if count[k]}
        return found

    def show(self, trainer: pl.Trainer, module: Any, stage: str, means: dict[int, float]) -> None:
        """Make the picture of one stage and publish it."""
        picture = bars(means, f"{stage} validation loss by log-SNR, step {module.optimizer_steps:,}".strip())
        path = self.dir / f"{f'{stage}-' if stage else ''}step={module.optimizer_steps:08d}.png"
        publish(trainer, module, path, f"loss_by_level{f'/{stage}' if stage else ''}", picture)


def binned(log_snr: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
    """Sums of losses (B,) and numbers of samples per bin, (2, BINS) float64 on the CPU."""
    log_snr, loss = log_snr.double().cpu(), loss.double().cpu()
    place = ((log_snr.clamp(LOW, HIGH) - LOW) / WIDTH).floor().long().clamp(0, BINS - 1)
    counts = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, torch.ones_like(loss))
    return torch.stack([torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, loss), counts])


def bars(means: dict[int, float], title: str) -> Image.Image:
    """A bar per bin from the lowest to the highest that there is, its value above it."""
    middles = list(range(min(means), max(means) + 1, WIDTH))
    wide, high, top, bottom = 46, 200, 40, 36
    picture = Image.new("RGB", (wide * len(middles) + 40, high + top + bottom), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((8, 6), title, fill="black")
    most = max((v for v in means.values() if math.isfinite(v)), default=0) or 1.0
    for i, middle in enumerate(middles):
        x, value = 20 + i * wide, means.get(middle)
        draw.text((x + 12, top + high + 6), str(middle), fill="black")
        if value is not None and math.isfinite(value):
            y = top + high - round(high * max(value, 0) / most)
            draw.rectangle([x + 4, y, x + wide - 4, top + high], fill="#3b6ea5")
            draw.text((x + 6, y - 13), f"{value:.2g}", fill="black")
    draw.text((8, top + high + 20), "log-SNR (left: noise, right: image)", fill="black")
    return picture
