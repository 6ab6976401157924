"""Whether a model of images and captions finds the one by the other, during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from callbacks.pictures import publish
from callbacks.steps import due, evaluating
from contracts import EmbedsImages, EmbedsTexts
from evaluation.metrics.images import to_uint8
from evaluation.metrics.retrieval import classification, distinct, retrieval
from evaluation.pictures.similarity_matrix import similarity_matrix


class Retrieval(pl.Callback):
    """Logs `val/loss` and `val/retrieval/…`, recall at 1, 5 and 10 among distinct validation pairs, and draws a similarity matrix.

    Pairs with equal captions, or of equal specs where the data has them, count once. The result depends on neither the
    batch size nor the number of processes. Of data with classes, whose captions name them, `val/zero_shot_accuracy` is the
    share of images whose class is found among all. A module that embeds no captions is left alone.

    Args:
        dir: folder of the pictures, `step=….png`.
        every_steps: optimiser steps between two measurements.
        n: candidates, the first distinct ones of the validation set; None takes all.
        shown: pairs in the picture.
    Raises: ValueError for fewer than two candidates or pairs.
    """

    def __init__(self, dir: str, every_steps: int = 1000, n: int | None = 256, shown: int = 12) -> None:
        for name, value in (("n", n), ("shown", shown)):
            if value is not None and value < 2:
                raise ValueError(f"callbacks.retrieval.{name}={value}: at least 2")
        self.dir, self.every_steps, self.n, self.shown = Path(dir), every_steps, n, shown

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        embeds = isinstance(module, EmbedsImages) and isinstance(module, EmbedsTexts)
        if not embeds or not due(trainer, module, self.every_steps):
            return
        if trainer.datamodule.val_dataset is None or not len(trainer.datamodule.val_dataset):
            return
        pairs = self.pairs(trainer, module)
        chosen = distinct(pairs["key"])
        chosen = chosen[distinct([pairs["caption"][i] for i in chosen], self.n)]
        if len(chosen) < 2:
            return
        image, text = pairs["image"][chosen], pairs["text"][chosen]
        with evaluating(trainer, module):
            line = {"val/loss": float(module.pair_loss(image.to(module.device), text.to(module.device)))}
        line |= {f"val/retrieval/{name}": value for name, value in retrieval(image, text).items()}
        if trainer.datamodule.num_classes:
            line["val/zero_shot_accuracy"] = classification(pairs["image"], pairs["text"], pairs["caption"])
        for logger in trainer.loggers:
            logger.log_metrics({"images": module.images_seen, **line}, step=module.optimizer_steps)
        if trainer.is_global_zero:
            few = chosen[: self.shown]
            captions, pictures = [pairs["caption"][i] for i in few], pairs["picture"][few]
            cosine = pairs["image"][few] @ pairs["text"][few].T
            path = self.dir / f"step={module.optimizer_steps:08d}.png"
            publish(trainer, module, path, "retrieval", similarity_matrix(pictures, captions, cosine))

    def pairs(self, trainer: pl.Trainer, module: Any) -> dict[str, Any]:
        """Vectors, pictures, captions and keys of all validation pairs, of all processes, in the order of the data."""
        parts: dict[str, list[Any]] = {"image": [], "text": [], "picture": [], "caption": [], "key": []}
        with evaluating(trainer, module, together=True):
            for batch in trainer.datamodule.val_dataloader():
                batch = trainer.strategy.batch_to_device(batch)
                parts["image"].extend(module.embed_image(batch["image"]).cpu())
                parts["text"].extend(module.embed_text(batch["caption"]).cpu())
                parts["picture"].extend(to_uint8(batch["image"]).cpu())
                parts["caption"].extend(batch["caption"])
                specs = batch.get("spec") or [None] * len(batch["caption"])
                parts["key"].extend(caption if spec is None else repr(spec) for caption, spec in zip(batch["caption"], specs))
        shards = [parts]
        if trainer.world_size > 1:
            shards = [{} for _ in range(trainer.world_size)]
            dist.all_gather_object(shards, parts)
        whole = {name: interleaved([shard[name] for shard in shards]) for name in parts}
        return whole | {name: torch.stack(whole[name]) for name in ("image", "text", "picture")}


def interleaved(shards: list[list[Any]]) -> list[Any]:
    """Items in the order of the data: process r holds every world-th item from r on."""
    longest = max(map(len, shards))
    return [shard[i] for i in range(longest) for shard in shards if i < len(shard)]
