"""Draws images: python sample.py ckpt=RUN prompt="a red circle" n=8 seed=0 out=DIR; python sample.py --help."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from contracts import Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import captioned_grid, to_pil
from evaluation.pictures.latent_sheets import SHEETS, check_sheet
from files import read_bytes
from runtime import settings
from runtime.checkpoint import load_module
from runtime.cli import launch
from runtime.config import compose
from runtime.options import SHORT, built_options, given_options, shown_options
from runtime.places import trusted
from runtime.settings import check_options

GRID = 64  # images in grid.png
MAX_PROMPT_BYTES = 16 * 2**20


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Samples as the overrides say and returns the lines of samples.jsonl; of a sheet there are none."""
    cfg = compose("sample", overrides)
    check(cfg)
    module, _, info = load_module(cfg.ckpt, ema=cfg.ema, trust=trusted(cfg.trust))
    options = given_options(cfg)
    for name, value in options.items():
        check_options(module, {name: value}, "" if cfg.get(name) is not None else "options.")
    if cfg.sheet is not None:
        check_sheet(cfg.sheet, module)
    request = read_request(cfg, module)
    asked = request.texts or request.labels or [None] * request.n
    if (reason := module.sampling_refusal()) is not None:
        raise ValueError(f"ckpt={cfg.ckpt}: {reason}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    module = module.to(device)
    what = f"step {info['step']}, {info['weights']} weights, {request.n} images on {device}"
    print(f"{info['path']}: {what}", flush=True)
    out = Path(cfg.out)  # made with the first picture, so that a mistake leaves nothing behind
    if cfg.sheet is not None:
        picture = SHEETS[cfg.sheet](module, request, cfg.seed)
        out.mkdir(parents=True, exist_ok=True)
        picture.save(out / f"{cfg.sheet}.png", optimize=True)
        print(out / f"{cfg.sheet}.png")
        return []
    built, recorded = built_options(options), dict.fromkeys(SHORT) | shown_options(options)
    lines, shown, began = [], [], time.perf_counter()
    for start in range(0, request.n, cfg.batch_size):
        part = request.take(range(start, min(start + cfg.batch_size, request.n)))
        seeds = [cfg.seed + start + i for i in range(part.n)]
        with torch.inference_mode():
            images = to_uint8(module.sample(part, seeds=seeds, **built).cpu())
        out.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            name = f"{start + i:05d}.png"
            to_pil(image).save(out / name)
            lines.append({"file": name, "prompt": asked[start + i], "seed": seeds[i], **recorded})
        shown += list(images[: GRID - len(shown)])
        done, left = start + part.n, request.n - start - part.n
        each = (time.perf_counter() - began) / done
        print(f"{done}/{request.n} images, {each:.2f} s/image, {each * left:.0f} s left", flush=True)
    names = request.take(range(len(shown))).names()
    captioned_grid(torch.stack(shown), names, columns(asked[: len(shown)])).save(out / "grid.png")
    (out / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(out / "grid.png")
    return lines


def columns(shown: list[Any]) -> int | None:
    """One column a class where classes come in turns, at least twice; None is a near-square grid."""
    period = len(set(shown))
    in_turns = period > 1 and shown[period : 2 * period] == shown[:period]
    return period if in_turns else None


def check(cfg: DictConfig) -> None:
    """Raises ValueError or FileNotFoundError for settings that are wrong by themselves, before anything is loaded."""
    settings.check("sample", cfg)
    given = [name for name in ("prompt", "prompts", "label") if cfg[name] is not None]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join(given)}")
    if cfg.prompts is not None:
        settings.readable(cfg.prompts, "prompts")
    settings.writable(cfg.out, "out")


def read_request(cfg: DictConfig, module: Any) -> Request:
    """What is asked of the model: prompts, class numbers, or only a number of images.

    Raises: ValueError for what the model does not take; FileNotFoundError.
    """
    kind = module.conditioning
    given = next((name for name in ("prompt", "prompts", "label") if cfg[name] is not None), None)
    wanted = {"text": ("prompt", "prompts"), "label": ("label", None), "none": (None,)}[kind]
    if given not in wanted:
        asks = {"text": 'prompt="…" or prompts=FILE', "label": "label= or nothing", "none": "no prompt and no label"}
        raise ValueError(f"this model takes {asks[kind]}" + (f", not {given}=" if given else ""))
    if given == "prompts":
        lines = read_lines(cfg.prompts)
        chosen = [line.strip() for line in lines if line.strip()]
        if not chosen:
            raise ValueError(f"prompts={cfg.prompts}: the file holds no prompt")
    elif kind == "label" and given is None:
        examples = module.example_request()
        return examples.take(i % examples.n for i in range(cfg.n))
    elif kind == "none":
        return Request(cfg.n)
    else:
        chosen = [cfg.prompt if given == "prompt" else cfg.label]
    if kind == "text":
        module.check_prompts(chosen)
    each = [c for c in chosen for _ in range(cfg.n)]
    return Request(len(each), **{"text": {"texts": each}, "label": {"labels": each}}[kind])


def read_lines(path: str) -> list[str]:
    """The lines of a text file of prompts. Raises ValueError for one that is none."""
    try:
        return read_bytes(path, MAX_PROMPT_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"prompts={path}: no text file in UTF-8") from None


if __name__ == "__main__":
    launch(main, "sample")
