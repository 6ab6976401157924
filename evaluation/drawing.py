"""Draws the images of a split from a checkpoint and keeps them on disk, so that each is drawn only once."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from evaluation.drawing_cost import count
from evaluation.metrics.images import to_uint8
from evaluation.metrics.prompt_set import PromptSet, sample_seed
from evaluation.metrics.run_evaluators import Ranks
from evaluation.sample_store import SampleStore, sec_per_image
from runtime.nodes import shown
from runtime.options import built_options, given_options, merged_options, plain, shown_options, swept_option
from runtime.settings import check_options


class SampleDrawer:
    """Makes sure that the samples of a split lie on disk.

    Args:
        cfg: of the evaluate command.
        module: in evaluation mode, on its device.
        fixed: what fixes every image beside split and options, plain: weights, data, seed, precision.
        out: folder of this model's evaluation.
    """

    def __init__(
        self, cfg: DictConfig, module: Any, fixed: dict[str, Any], out: Path, device: str, ranks: Ranks
    ) -> None:
        self.cfg, self.module, self.fixed, self.out = cfg, module, fixed, out
        self.device, self.ranks, self.warm = device, ranks, False
        check_sampling(cfg, module)

    def draw(self, prompts: PromptSet, overrides: dict[str, Any] | None = None) -> SampleStore:
        """Samples this process's missing images, with the configured options and `overrides`."""
        options = merged_options(given_options(self.cfg), overrides or {})
        what = self.fixed | {"split": prompts.split, "options": options}
        store = SampleStore(self.out / "samples", prompts.split, what, self.ranks.rank)
        mine = self.ranks.share(len(prompts))
        missing = store.missing(mine)
        label = " ".join([prompts.split, *(f"{key}={value}" for key, value in shown_options(overrides or {}).items())])
        progress = Progress(f"sampling {label}", len(mine), len(missing), quiet=self.ranks.rank > 0)
        for start in range(0, len(missing), self.cfg.batch_size):
            indices, began = missing[start : start + self.cfg.batch_size], time.perf_counter()
            with torch.inference_mode(), self.autocast():
                image = self._sample(prompts, indices, options).float().cpu()
            store.write(indices, to_uint8(image), time.perf_counter() - began, self.warm)
            self.warm = True
            progress.add(len(indices))
        self.ranks.gather(None)  # all images are there before any process goes on
        return store

    def cost(self, prompts: PromptSet, store: SampleStore, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        """flops_per_image, nfe, networks, sec_per_image and sec_per_image_min of these samples.

        The first two are counted while one image is drawn, after the others, so that all caches are warm.
        """
        if (counted := store.kept("cost")) is None:
            options = merged_options(given_options(self.cfg), overrides or {})
            with self.autocast():
                counted = count(self.module, lambda: self._sample(prompts, [0], options))
            store.keep("cost", counted)
        median, least = sec_per_image(store.timing())
        return counted | {"sec_per_image": median, "sec_per_image_min": least}

    def _sample(self, prompts: PromptSet, indices: Sequence[int], options: dict[str, Any]) -> torch.Tensor:
        numbers = seeds(self.cfg.seed, prompts.split, indices)
        return self.module.sample(prompts.request(indices), seeds=numbers, **built_options(options))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the samples."""
        enabled = self.fixed["precision"] == "bf16"
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=enabled)


def seeds(seed: int, split: str, indices: Sequence[int]) -> list[int]:
    """One seed per image, independent of batch size, count and options."""
    return [sample_seed(seed, split, i) for i in indices]


def check_sampling(cfg: DictConfig, module: Any) -> None:
    """Raises ValueError for options, and options of a sweep, that the model does not take."""
    check_options(module, given_options(cfg))
    stages = list(getattr(module, "stages", {}))
    if cfg.sweep.stage is not None and cfg.sweep.stage not in stages:
        there = f"its stages are {', '.join(stages)}" if stages else "it has none"
        raise ValueError(f"sweep.stage={cfg.sweep.stage}: the model has no such stage; {there}")
    for option, values in swept(cfg).items():
        for value in values:
            check_options(module, {option: swept_option(module, option, value, cfg.sweep.stage)}, "sweep.")


def swept(cfg: DictConfig) -> dict[str, list[Any]]:
    """{option: its values} of the sweeps that were asked for.

    Raises: ValueError for an option without a list of values.
    """
    found = {name: plain(values) for name, values in cfg.sweep.items() if name != "stage" and values is not None}
    for name, values in found.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"sweep.{name}={shown(values)}: give a list of values, for instance [1,2]")
    return found


class Progress:
    """One line on stderr: images done, seconds per image, time left."""

    def __init__(self, label: str, total: int, missing: int, quiet: bool = False) -> None:
        self.label, self.total, self.missing, self.done, self.began = label, total, missing, 0, time.perf_counter()
        self.quiet = quiet
        if missing < total and not quiet:
            print(f"{label}: {total - missing} of {total} images are on disk already", file=sys.stderr)

    def add(self, number: int) -> None:
        self.done += number
        each = (time.perf_counter() - self.began) / self.done
        left = each * (self.missing - self.done)
        end = "\n" if self.done == self.missing or not sys.stderr.isatty() else "\r"
        text = f"{self.label}: {self.done}/{self.missing} images, {each:.2f} s/image, {left / 60:.1f} min left"
        if not self.quiet:
            print(text.ljust(90), end=end, file=sys.stderr, flush=True)
