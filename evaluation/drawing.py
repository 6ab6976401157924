"""Drawing the images of a split from a checkpoint, once: they stay on disk under everything that fixes them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from evaluation.drawing_cost import count
from evaluation.metrics.images import to_uint8
from evaluation.metrics.prompt_set import PromptSet, sample_seed
from evaluation.metrics.run_evaluators import Ranks
from evaluation.sample_store import SampleStore, sec_per_image
from runtime.build import instantiate
from runtime.config import compose
from runtime.fit import cpu_has_bf16
from runtime.settings import check_options

OPTIONS = ("guidance_scale", "num_steps", "sampler")


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
        plain = merged(sampling_options(self.cfg), overrides or {})
        what = self.fixed | {"split": prompts.split, "options": plain}
        store = SampleStore(self.out / "samples", prompts.split, what, self.ranks.rank)
        mine = self.ranks.share(len(prompts))
        missing = store.missing(mine)
        label = " ".join([prompts.split, *(f"{key}={shown(value)}" for key, value in (overrides or {}).items())])
        progress = Progress(f"sampling {label}", len(mine), len(missing), quiet=self.ranks.rank > 0)
        for start in range(0, len(missing), self.cfg.batch_size):
            indices, began = missing[start : start + self.cfg.batch_size], time.perf_counter()
            with torch.inference_mode(), self.autocast():
                image = self._sample(prompts, indices, plain).float().cpu()
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
            plain = merged(sampling_options(self.cfg), overrides or {})
            with self.autocast():
                counted = count(self.module, lambda: self._sample(prompts, [0], plain))
            store.keep("cost", counted)
        median, least = sec_per_image(store.timing())
        return counted | {"sec_per_image": median, "sec_per_image_min": least}

    def _sample(self, prompts: PromptSet, indices: Sequence[int], plain: dict[str, Any]) -> torch.Tensor:
        options = plain | ({"sampler": instantiate(plain["sampler"])} if "sampler" in plain else {})
        return self.module.sample(
            prompts.request(indices), seeds=seeds(self.cfg.seed, prompts.split, indices), **options
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the samples."""
        enabled = self.fixed["precision"] == "bf16"
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=enabled)


def precision(choice: str, config: DictConfig, device: str) -> str:
    """`bf16` or `float32`: the choice; `auto` is as the model was trained, where this machine computes in bfloat16."""
    if choice != "auto":
        return choice
    trainer = config.get("trainer")
    trained = trainer and (trainer.get("precision") or "bf16-mixed")  # null trains in bf16 wherever that is quick
    quick = torch.cuda.is_bf16_supported() if device.startswith("cuda") else cpu_has_bf16()
    return "bf16" if trained and str(trained).startswith("bf16") and quick else "float32"


def seeds(seed: int, split: str, indices: Sequence[int]) -> list[int]:
    """One seed per image, independent of batch size, count and options."""
    return [sample_seed(seed, split, i) for i in indices]


def sampling_options(cfg: DictConfig) -> dict[str, Any]:
    """The options that were given, as plain values; what is absent stays as the checkpoint has it."""
    given = {name: cfg[name] for name in OPTIONS if cfg[name] is not None}
    return {
        name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for name, value in given.items()
    }


def merged(options: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides over options; of an option given per stage, the other stages stay."""
    found = dict(options)
    for name, value in overrides.items():
        both = name != "sampler" and isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = found[name] | value if both else value
    return found


def check_sampling(cfg: DictConfig, module: Any) -> None:
    """Raises ValueError for options, and options of a sweep, that the model does not take."""
    check_options(module, sampling_options(cfg))
    stages = list(getattr(module, "stages", {}))
    if cfg.sweep.stage is not None and cfg.sweep.stage not in stages:
        there = f"its stages are {', '.join(stages)}" if stages else "it has none"
        raise ValueError(f"sweep.stage={cfg.sweep.stage}: the model has no such stage; {there}")
    for option in OPTIONS:
        for value in cfg.sweep[option] or ():
            check_options(module, {option: setting(cfg, option, value)}, "sweep.")


def setting(cfg: DictConfig, option: str, value: Any) -> Any:
    """What sample() gets for one value of a sweep: a sampler's configuration, or a number for all stages or for one."""
    if option == "sampler":
        return OmegaConf.to_container(compose("evaluate", [f"sampler={value}"]).sampler, resolve=True)
    number = float(value) if option == "guidance_scale" else value
    return number if cfg.sweep.stage is None else {cfg.sweep.stage: number}


def configured(node: Any, place: str = "") -> dict[str, Any]:
    """The sampling settings inside a model's configuration, by their place: {"stages.base.num_steps": 32}."""
    found: dict[str, Any] = {}
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "sampler" and isinstance(value, dict):
            found[f"{place}{key}"] = shown(value)
        elif key in (*OPTIONS, "threshold", "guidance_rescale", "aug_level"):
            found[f"{place}{key}"] = value
        else:
            found |= configured(value, f"{place}{key}.")
    return found


def shown(value: Any) -> Any:
    """An option for people: a sampler by its name."""
    return str(value["_target_"]).rpartition(".")[2] if isinstance(value, dict) and "_target_" in value else value


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
