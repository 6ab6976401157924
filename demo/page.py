"""One HTML file to play with, without a server or network: everything it shows was drawn beforehand.

python -m demo.page [--out play.html --text imagen-scenes --film imagen-scenes --latents vae-garments gan-garments --quick]

It has prompts by guidance, steps and seed, the way from noise to images under a slider, and latents under the mouse.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from api import Model, load
from contracts import Films, HasLatents, Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import to_pil
from evaluation.pictures.latent_sheets import drawn
from files import printable, write_text

TEMPLATE = Path(__file__).with_name("page.html")
DATA = "/*DATA*/null"  # what the template has in the place of the data


@dataclass(frozen=True)
class Settings:
    """What can be chosen on the page."""

    prompts: tuple[str, ...] = (
        "a small red circle left of a large blue square",
        "a large yellow square above a small green triangle",
        "three large green triangles",
        "four small red squares",
        "two large yellow circles",
        "a large purple triangle right of a small cyan circle",
    )
    guidance: tuple[float, ...] = (1.0, 2.0, 3.0, 6.0)
    steps: tuple[int, ...] = (4, 8, 16, 32)
    seeds: int = 4
    films: int = 6  # images of a film
    frames: int = 25
    places: int = 21  # latents along each side of the plane


QUICK = Settings(prompts=("two red circles", "a blue square"), guidance=(1.0, 2.0, 3.0), steps=(1, 2), seeds=2, films=2, frames=4, places=3)


def sheet(image_u8: Tensor, columns: int) -> dict[str, Any]:
    """Images (N, C, H, W) in one picture, a PNG in text, and where each lies: row by row from the upper left."""
    n, _, height, width = image_u8.shape
    whole = Image.new("RGB", (columns * width, math.ceil(n / columns) * height))
    for i, image in enumerate(map(to_pil, image_u8)):
        whole.paste(image, (i % columns * width, i // columns * height))
    out = io.BytesIO()
    whole.save(out, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"sheet": address, "columns": columns, "width": width, "height": height}


def about(model: Model, ckpt: str) -> dict[str, Any]:
    """What is said of a model: its name, size and training."""
    info = model.info
    return {
        "ckpt": ckpt, "family": type(model.module).__name__, "images_seen": info["images_seen"],
        "parameters": sum(p.numel() for p in model.module.parameters()),
    }  # fmt: skip


def prompts(ckpt: str, s: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Every prompt at every guidance scale, number of steps and seed; in the sheet the seed changes fastest, then steps, then guidance."""
    model = load(ckpt)
    if model.module.conditioning != "text":
        raise ValueError(f"--text {ckpt}: this model draws from no prompt")
    parts, total, began = [], len(s.prompts) * len(s.guidance) * len(s.steps), time.perf_counter()
    for prompt in s.prompts:
        for scale in s.guidance:
            for steps in s.steps:
                options = {"guidance_scale": {model.module.base: scale}, "num_steps": {model.module.base: steps}}
                parts.append(to_uint8(model.sample(prompt, n=s.seeds, tensors=True, **options)))
                left = (time.perf_counter() - began) / len(parts) * (total - len(parts))
                say(f"{ckpt}: {len(parts)} of {total} settings, {left:.0f} seconds left")
    choices = {"prompts": s.prompts, "guidance": s.guidance, "steps": s.steps, "seeds": list(range(s.seeds)), "base": model.module.base}
    return {**about(model, ckpt), **choices, **sheet(torch.cat(parts), s.seeds * len(s.steps))}


def film(ckpt: str, s: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """The way of some images from noise; in the sheet a row for each moment: x_t of all images, then the estimates of x_0."""
    model = load(ckpt)
    if not isinstance(model.module, Films):
        raise ValueError(f"--film {ckpt}: this model does not draw in steps from noise to images")
    say(f"{ckpt}: the way of {s.films} images")
    kind = model.module.conditioning
    texts = [s.prompts[i % len(s.prompts)] for i in range(s.films)] if kind == "text" else None
    request = Request(s.films, texts=texts, labels=[0] * s.films if kind == "label" else None)
    with torch.inference_mode():
        way, estimates = model.module.film(request, seeds=list(range(s.films)))
    kept = [round(i * (len(way) - 1) / (s.frames - 1)) for i in range(s.frames)] if len(way) > s.frames else range(len(way))
    both = torch.cat([way[list(kept)], estimates[list(kept)]], 1)  # (K, 2n, C, H, W)
    return {**about(model, ckpt), "n": s.films, "frames": len(both), **sheet(to_uint8(both.flatten(0, 1)), 2 * s.films)}


def plane(ckpt: str, s: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Images of the latents of a plane: all of a latent space of two dimensions, else the plane of two random directions.

    The two axes of the plane are quantiles of the normal distribution, so each part of it holds as much of what the model draws.
    """
    model = load(ckpt)
    if not isinstance(model.module, HasLatents):
        raise ValueError(f"--latents {ckpt}: this model draws from no latents of a known distribution; a GAN or a VAE does")
    say(f"{ckpt}: {s.places**2} latents")
    axis = torch.special.ndtri((torch.arange(s.places) + 0.5) / s.places)
    x, y = axis.repeat(s.places), axis.flip(0).repeat_interleave(s.places)  # rows from above, so y falls
    start, end = model.module.latents([0, 1])
    if len(start) == 2:
        z, what = torch.stack([x, y], 1), "all of its two latent dimensions"
    else:
        # The plane through two random latents. Its points are put onto the sphere on which nearly all latents lie; the centre has no direction.
        z = torch.outer(x, start) + torch.outer(y, end - (end @ start) / (start @ start) * start)
        z = torch.where(z.norm(dim=1, keepdim=True) < 1e-3 * start.norm(), start, z)
        z, what = z * (len(start) ** 0.5 / z.norm(dim=1, keepdim=True)), f"a plane through its {len(start)} latent dimensions"
    label = torch.zeros(len(z), dtype=torch.int64) if model.module.conditioning == "label" else None
    return {**about(model, ckpt), "places": s.places, "what": what, **sheet(drawn(model.module, z, label), s.places)}


def page(data: dict[str, Any]) -> str:
    """The page with its data inside."""
    template = TEMPLATE.read_text()
    if template.count(DATA) != 1:
        raise ValueError(f"{TEMPLATE} must hold {DATA} once")
    return template.replace(DATA, json.dumps(data).replace("</", "<\\/"))


def build(text: str | None, films: Sequence[str], latents: Sequence[str], s: Settings, say: Callable[[str], None]) -> str:
    """Draws everything and returns the page."""
    data = {
        "text": prompts(text, s, say) if text else None,
        "films": [film(ckpt, s, say) for ckpt in films],
        "planes": [plane(ckpt, s, say) for ckpt in latents],
    }
    return page(data)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.page", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("play.html"), help="where the page goes (default play.html)")
    parser.add_argument("--text", default="imagen-scenes", help="a model that draws from prompts: a run, a checkpoint or a name in zoo/")
    parser.add_argument("--film", nargs="*", default=["imagen-scenes"], help="models of diffusion")
    parser.add_argument("--latents", nargs="*", default=["vae-garments", "gan-garments"], help="models with latents")
    parser.add_argument("--quick", action="store_true", help="few pictures, to see whether it works")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        print(printable(line), flush=True)

    html = build(args.text or None, args.film, args.latents, QUICK if args.quick else Settings(), say)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, html)
    say(f"{args.out}: {len(html) / 2**20:.1f} MB, open it in a browser")


if __name__ == "__main__":
    from runtime.cli import guarded

    raise SystemExit(guarded(main))
