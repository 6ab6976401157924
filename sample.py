"""Draws images: python sample.py ckpt=RUN prompt="a red circle" n=8 seed=0 out=DIR; python sample.py --help."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.grid import captioned_grid, to_pil
from callbacks.sheets import SHEETS, check_sheet
from evaluators.images import to_uint8
from runtime.build import instantiate
from runtime.checkpoint import load_module
from runtime.cli import launch
from runtime.config import compose
from runtime.places import trusted

GRID = 64  # images in grid.png


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Samples as the overrides say and returns the lines of samples.jsonl; of a sheet there are none."""
    cfg = compose("sample", overrides)
    check(cfg)
    module, _, info = load_module(str(cfg.ckpt), ema=cfg.ema, trust=trusted(cfg.trust))
    if cfg.sheet is not None:
        check_sheet(cfg.sheet, module)
    prompts = read_prompts(cfg, module)
    if (reason := module.sampling_refusal()) is not None:
        raise ValueError(f"ckpt={cfg.ckpt}: {reason}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    module = module.to(device)
    what = f"step {info['step']}, {info['weights']} weights, {len(prompts)} images on {device}"
    print(f"{info['path']}: {what}", flush=True)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    if cfg.sheet is not None:
        picture = SHEETS[cfg.sheet](module, prompts, cfg.seed)
        picture.save(out / f"{cfg.sheet}.png", optimize=True)
        print(out / f"{cfg.sheet}.png")
        return []
    lines, shown, began = [], [], time.perf_counter()
    for start in range(0, len(prompts), cfg.batch_size):
        part = prompts[start : start + cfg.batch_size]
        seeds = [cfg.seed + start + i for i in range(len(part))]
        with torch.inference_mode():
            images = to_uint8(module.sample(conditions(part), seeds=seeds, **sampling(cfg)).cpu())
        for i, image in enumerate(images):
            name = f"{start + i:05d}.png"
            to_pil(image).save(out / name)
            lines.append({"file": name, "prompt": part[i], "seed": seeds[i], **settings(cfg)})
        shown += list(images[: GRID - len(shown)])
        done, left = start + len(part), len(prompts) - start - len(part)
        each = (time.perf_counter() - began) / done
        print(f"{done}/{len(prompts)} images, {each:.2f} s/image, {each * left:.0f} s left", flush=True)
    named = [str(p) for p in prompts[: len(shown)]] if prompts[0] is not None else None
    captioned_grid(torch.stack(shown), named, columns(prompts[: len(shown)])).save(out / "grid.png")
    (out / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(out / "grid.png")
    return lines


def columns(shown: list[Any]) -> int | None:
    """One column a class where classes come in turns, at least twice; None is a near-square grid."""
    period = len(set(shown))
    in_turns = period > 1 and shown[period : 2 * period] == shown[:period]
    return period if in_turns else None


def check(cfg: DictConfig) -> None:
    """Raises ValueError for options out of range or missing."""
    if OmegaConf.is_missing(cfg, "ckpt"):
        raise ValueError("give ckpt=: a checkpoint file, a run directory such as runs/latest, or a name in zoo/")
    for name in ("n", "batch_size"):
        if not isinstance(cfg[name], int) or cfg[name] < 1:
            raise ValueError(f"{name}={cfg[name]!r}: a whole number of at least 1")
    given = [name for name in ("prompt", "prompts", "label") if cfg[name] is not None]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join(given)}")
    if cfg.label is not None and not isinstance(cfg.label, int):
        raise ValueError(f"label={cfg.label}: a class number, for instance label=7")


def read_prompts(cfg: DictConfig, module: Any) -> list[Any]:
    """One condition per image: a prompt, a class number, or None.

    Raises: ValueError for what the model does not take; FileNotFoundError.
    """
    kind = module.conditioning
    given = next((name for name in ("prompt", "prompts", "label") if cfg[name] is not None), None)
    wanted = {"text": ("prompt", "prompts"), "label": ("label", None), "none": (None,)}[kind]
    if given not in wanted:
        asks = {"text": 'prompt="…" or prompts=FILE', "label": "label= or nothing", "none": "no prompt and no label"}
        raise ValueError(f"this model takes {asks[kind]}" + (f", not {given}=" if given else ""))
    if given == "prompts":
        lines = Path(cfg.prompts).read_text(encoding="utf-8-sig").splitlines() if Path(cfg.prompts).is_file() else None
        if lines is None:
            raise FileNotFoundError(f"prompts={cfg.prompts}: no such file")
        chosen = [line.strip() for line in lines if line.strip()]
        if not chosen:
            raise ValueError(f"prompts={cfg.prompts}: the file holds no prompt")
    elif kind == "label" and given is None:
        examples = module.example_conditions()
        return [examples[i % len(examples)] for i in range(cfg.n)]
    else:
        chosen = [None if given is None else str(cfg.prompt) if given == "prompt" else cfg.label]
    if kind == "text":
        module.check_prompts(chosen)
    return [c for c in chosen for _ in range(cfg.n)]


def conditions(part: Sequence[Any]) -> Any:
    """What the module is asked for: prompts or class numbers as they are, else a number of images."""
    return len(part) if part[0] is None else list(part)


def sampling(cfg: DictConfig) -> dict[str, Any]:
    """Overrides of the checkpoint's way of sampling."""
    plain = OmegaConf.to_container(cfg)
    chosen = {k: plain[k] for k in ("guidance_scale", "num_steps") if plain[k] is not None}
    chosen |= {"sampler": instantiate(cfg.sampler)} if cfg.get("sampler") else {}
    return chosen | plain["options"]


def settings(cfg: DictConfig) -> dict[str, Any]:
    """The same overrides, as samples.jsonl records them; null is the checkpoint's own."""
    plain = OmegaConf.to_container(cfg)
    sampler = cfg.sampler._target_.split(".")[-1] if cfg.get("sampler") else None
    return {"guidance_scale": plain["guidance_scale"], "num_steps": plain["num_steps"], "sampler": sampler}


if __name__ == "__main__":
    launch(main, "sample")
