"""Draws images: python sample.py ckpt=RUN prompt="a red circle" n=8 seed=0 out=DIR; python sample.py --help."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from api import draw
from contracts import DrawsEmbeddings, Request
from evaluation.image_files import decode, resized
from evaluation.metrics.images import to_uint8
from evaluation.pictures.animation import save_gif
from evaluation.pictures.captioned_grid import captioned_grid, to_pil
from evaluation.pictures.embedding_tasks import edit, interpolate_embeddings, variations
from evaluation.pictures.latent_sheets import SHEETS, check_sheet
from evaluation.pictures.tasks import check_task, film, inpaint, interpolate, invert
from files import read_bytes, replacing, write_text
from runtime import settings
from runtime.bfloat16 import sampling_precision
from runtime.checkpoint import guide, load_module
from runtime.cli import launch
from runtime.config import compose
from runtime.options import built_options, given_options, shown_options
from runtime.places import trusted
from runtime.settings import check_options, known_options

GRID = 64  # images in grid.png
MAX_PROMPT_BYTES = 16 * 2**20
# Task -> the files that it needs, and the methods of the model that it calls.
NEEDED = {
    "sample": (), "inpaint": ("image", "mask"), "interpolate": ("images",), "invert": ("image",), "film": (), "variations": ("image",),
    "edit": ("image", "from", "to"),
}  # fmt: skip
POSSIBLE = {**NEEDED, "film": ("image",)}  # the files that it can start from
METHODS = {
    "sample": ("sample",), "film": ("film",), "inpaint": ("inpaint",), "interpolate": ("invert", "draw_from"), "invert": ("invert", "draw_from"),
    "variations": ("noise_of", "draw_embedded"), "edit": ("noise_of", "draw_embedded"),
}  # fmt: skip


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Draws as the overrides say and returns the lines of samples.jsonl; of a sheet there are none."""
    cfg = compose("sample", overrides)
    check(cfg)
    module, config, info = load_module(cfg.ckpt, ema=cfg.ema, trust=trusted(cfg.trust))
    sheet = "interpolation" if cfg.task == "interpolate" and cfg.images is None else cfg.sheet
    if sheet is not None:
        check_sheet(sheet, module, "task=interpolate without images=" if cfg.sheet is None else f"sheet={sheet}")
    elif cfg.task != "sample":
        check_task(cfg.task, module)
    options, methods = given_options(cfg), methods_of("sample" if sheet is not None else cfg.task, module)
    for name, value in options.items():
        check_options(module, {name: value}, "" if cfg.get(name) is not None else "options.", methods)
    # With options, such as stages=[base], what is trained may be enough: then sample() says whether it is.
    if not options and (reason := module.sampling_refusal()) is not None:
        raise ValueError(f"ckpt={cfg.ckpt}: {reason}")
    from_images = cfg.image is not None or cfg.images is not None
    request = read_request(cfg, module, from_images and cfg.task != "film")
    if from_images:
        request = with_images(cfg, request, config.data)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if cfg.device == "auto" else cfg.device
    module = module.to(device)
    guides = {name: found["sha256"] for name, found in guide(module, cfg, trusted(cfg.trust)).items()}
    made = shown_options(module.sampling_settings()) | shown_options(options)  # given ones beside what they replace in a cascade
    made |= {"checkpoint": str(info["path"]), **{name: info[name] for name in ("sha256", "step", "weights")}} | guides
    what = f"step {info['step']}, {info['weights']} weights, {request.n} images on {device}"
    print(f"{info['path']}: {what}", flush=True)
    out = Path(cfg.out)  # made with the first picture, so that a mistake leaves nothing behind
    if sheet is not None:
        picture = SHEETS[sheet](module, request, cfg.seed)
        out.mkdir(parents=True, exist_ok=True)
        write_png(picture, out / f"{sheet}.png", optimize=True)
        print(out / f"{sheet}.png")
        return []
    plain = cfg.task == "sample"  # a task that goes back to noise, or looks at its way, is one of float32
    made["precision"] = sampling_precision(str(cfg.precision), config, device) if plain else "float32"
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=made["precision"] == "bf16"):
        lines = [line | made for line in (draw_samples if plain else draw_task)(cfg, module, request, options, out)]
    write_text(out / "samples.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def draw_samples(
    cfg: DictConfig, module: Any, request: Request, options: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Plain samples: one PNG each and a grid of the first of them."""
    asked = request.texts or request.labels or [None] * request.n
    built = built_options(options)
    lines, shown, began = [], [], time.perf_counter()
    for seeds, drawn in draw(module, request, cfg.seed, cfg.batch_size, built):
        images, start = to_uint8(drawn), len(lines)
        for i, name in enumerate(save(out, images, start)):
            lines.append({"file": name, "prompt": asked[start + i], "seed": seeds[i]})
        shown += list(images[: GRID - len(shown)])
        each = (time.perf_counter() - began) / len(lines)
        print(f"{len(lines)}/{request.n} images, {each:.2f} s/image, {each * (request.n - len(lines)):.0f} s left", flush=True)
    names = request.take(range(len(shown))).names()
    write_png(captioned_grid(torch.stack(shown), names, columns(asked[: len(shown)])), out / "grid.png")
    print(out / "grid.png")
    return lines


def draw_task(
    cfg: DictConfig, module: Any, request: Request, options: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """A task that starts from images: one PNG for each image, and a strip of all, named after the task."""
    built = built_options(options)
    methods = methods_of(cfg.task, module)
    taken = [{n: v for n, v in built.items() if n in known_options(module, method)} for method in methods]
    seeds: list[Any] = [cfg.seed + i for i in range(request.n)]
    if cfg.task in ("inpaint", "film", "variations"):
        drawn = {"inpaint": inpaint, "film": film, "variations": variations}[cfg.task](module, request, seeds, *taken)
    elif "draw_embedded" in methods:
        seeds = [cfg.seed] * request.n
        edited = partial(edit, module, request, (cfg["from"], cfg.to))
        drawn = (edited if cfg.task == "edit" else partial(interpolate_embeddings, module, request))(seeds, *taken)
    else:
        seeds = [None] * request.n
        drawn = (interpolate if cfg.task == "interpolate" else invert)(module, request, *taken)
    asked = request.texts or request.labels or [None] * request.n
    names = save(out, drawn.images_u8)
    write_png(drawn.strip, out / f"{cfg.task}.png")
    if drawn.frames:
        save_gif(drawn.frames, out / f"{cfg.task}.gif")
        print(out / f"{cfg.task}.gif")
    for name, value in drawn.facts.items():
        print(f"{name}: {value:.4g}")
    print(out / f"{cfg.task}.png")
    return [
        {"file": name, "prompt": prompt, "seed": seed, "task": cfg.task, **drawn.facts}
        for name, prompt, seed in zip(names, asked, seeds, strict=True)
    ]


def methods_of(task: str, module: Any) -> tuple[str, ...]:
    """The methods of a model that a task calls."""
    return METHODS["edit" if task == "interpolate" and isinstance(module, DrawsEmbeddings) else task]


def write_png(picture: Image.Image, path: Path, **options: Any) -> None:
    """Replaces the file at `path`, also where a link stands there: what it leads to stays as it is."""
    with replacing(path) as fresh:
        picture.save(fresh, "PNG", **options)


def save(out: Path, images_u8: Tensor, start: int = 0) -> list[str]:
    """Writes images as PNGs, numbered from `start` on, and returns the names of the files."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{start + i:05d}.png" for i in range(len(images_u8))]
    for name, image in zip(names, images_u8):
        write_png(to_pil(image), out / name)
    return names


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
    check_task_settings(cfg)
    settings.writable(cfg.out, "out")


def check_task_settings(cfg: DictConfig) -> None:
    """Raises ValueError or FileNotFoundError unless a task has the images that it needs, and no others."""
    needed = NEEDED[cfg.task]
    for name in ("image", "mask", "images", "from", "to"):
        if cfg[name] is not None and name not in POSSIBLE[cfg.task]:
            tasks = " or ".join(f"task={task}" for task, names in POSSIBLE.items() if name in names)
            raise ValueError(f"{name}= goes with {tasks}, and means nothing to task={cfg.task}")
        if cfg[name] is None and name in needed and name != "images":
            raise ValueError(f"task={cfg.task} needs {name}=" + ('"…", a caption' if name in ("from", "to") else "FILE"))
    if cfg.images is not None and (len(cfg.images) != 2 or cfg.n < 2):
        raise ValueError(f"task=interpolate goes from one image to another: give two images and n of at least 2, "
                         f"not {len(cfg.images)} images and n={cfg.n}")
    if cfg.task == "edit" and cfg.n < 2:
        raise ValueError(f"task=edit goes from the image on its way to what it is to show: give n of at least 2, not n={cfg.n}")
    if cfg.weaker is not None and (cfg.sheet is not None or cfg.task not in ("sample", "inpaint", "film")):
        raise ValueError(f"weaker={cfg.weaker} guides task=sample, task=inpaint and task=film, and nothing else")
    if cfg.guide_clip is not None and (cfg.sheet is not None or cfg.task not in ("sample", "inpaint")):
        raise ValueError(f"guide_clip={cfg.guide_clip} guides task=sample and task=inpaint, and nothing else")
    if cfg.task != "sample" and cfg.sheet is not None:
        raise ValueError(f"sheet={cfg.sheet} goes with task=sample")
    if cfg.task != "sample" and cfg.prompts is not None:
        raise ValueError(f"prompts= means nothing to task={cfg.task}: give one prompt")
    if cfg.task == "invert" and cfg.n != 1:
        raise ValueError(f"n={cfg.n}: task=invert draws one image from the noise of one")
    for path in filter(None, (cfg.image, cfg.mask, *(cfg.images or ()))):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file")


def with_images(cfg: DictConfig, request: Request, data: DictConfig) -> Request:
    """The request with the images of a task and, for holes to fill, the mask, in the size of the model's data."""
    files = [cfg.image] * request.n if cfg.images is None else [cfg.images[0]] * (request.n - 1) + [cfg.images[1]]
    read = {path: read_image(path, data.image_size, data.get("channels", 3)) for path in dict.fromkeys(files)}
    images = torch.stack([read[path] for path in files])  # (n, C, H, W)
    if cfg.mask is None:
        return replace(request, images=images)
    known = read_image(cfg.mask, data.image_size, 1) > 0  # (1, H, W)
    if known.all() or not known.any():
        all_or_none = "white: nothing is left to draw" if known.all() else "black: nothing of the image is known"
        raise ValueError(f"mask={cfg.mask}: all of it is {all_or_none}; white stays, black is drawn anew")
    return replace(request, images=images, masks=known.expand(request.n, -1, -1, -1))


def read_image(path: str, size: int, channels: int) -> Tensor:
    """An image file as (C, size, size) in [-1, 1]. Raises ValueError for what is no image."""
    try:
        array, _ = decode(Path(path))
    except (OSError, ValueError, SyntaxError) as error:  # each format has its own way to be broken
        raise ValueError(f"{path}: not an image that can be read: {str(error).splitlines()[0][:200]}") from None
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("L" if channels == 1 else "RGB")
    pixels = torch.from_numpy(resized(np.asarray(picture).reshape(picture.height, picture.width, -1), (size, size)).copy())
    return pixels.permute(2, 0, 1).float() / 127.5 - 1  # (C, H, W)


def read_request(cfg: DictConfig, module: Any, unconditional: bool = False) -> Request:
    """What is asked of the model: prompts, class numbers, or only a number of images.

    Args:
        unconditional: a model that draws from prompts or classes may be given none, and draws without.
    Raises: ValueError for what the model does not take; FileNotFoundError.
    """
    kind = module.conditioning
    given = next((name for name in ("prompt", "prompts", "label") if cfg[name] is not None), None)
    if given is None and unconditional:
        return Request(cfg.n, **{"text": {"texts": [""] * cfg.n}, "label": {"labels": [None] * cfg.n}, "none": {}}[kind])
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
