"""Real scenes, corrupted real scenes and models on one page: what each metric says of damage that anyone can see.

python -m benchmarks.comparison ckpt… writes a folder of PNGs for each kind of damage, evaluates each folder as if
somebody's model had drawn it for the prompts of the first checkpoint's data, and puts all on one page.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import positive, run
from benchmarks.corruptions import blur, generator, jpeg, noise, to_bytes
from contracts import HasPrompts
from evaluation.metrics.prompt_set import sample_seed
from runtime.build import instantiate_untrusted
from runtime.checkpoint import load_module
from scenes.render import render

OUT = Path("evaluations") / "comparison"


def texture(image_u8: Tensor, levels: float) -> Tensor:
    """A smooth pattern of this standard deviation in levels of 255, different in each image: a stain nobody sees."""
    n, c, h, w = image_u8.shape
    coarse = torch.randn(n, c, 8, 8, generator=generator())
    return to_bytes(image_u8 + levels * F.interpolate(coarse, size=(h, w), mode="bicubic"))


def shuffled(image_u8: Tensor) -> Tensor:
    """Every image under another one's prompt."""
    return image_u8.roll(len(image_u8) // 2, 0)


def copies(image_u8: Tensor) -> Tensor:
    """A tenth of the images, ten times each."""
    return image_u8[: -(-len(image_u8) // 10)].repeat(10, 1, 1, 1)[: len(image_u8)]


DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "real": lambda image_u8: image_u8,
    "blur 0.5": partial(blur, sigma=0.5),
    "blur 1": partial(blur, sigma=1),
    "noise 0.05": partial(noise, std=0.05),
    "texture 2": partial(texture, levels=2),
    "JPEG 20": partial(jpeg, quality=20),
    "shuffled": shuffled,
    "copies x10": copies,
}


def write_folders(ckpt: str, split: str, n: int, out: Path) -> dict[str, Path]:
    """A folder of PNGs for each kind of damage, done to scenes of the prompts that were drawn for this alone."""
    _, config, _ = load_module(ckpt)
    data = instantiate_untrusted(config.data)
    if not isinstance(data, HasPrompts):
        raise ValueError(f"{ckpt} was not trained on captioned scenes, whose images can be drawn anew")
    data.setup("test")
    seeds = (sample_seed("comparison", split, i) for i in range(n))
    scenes = [render(spec, seed, data.image_size)[0] for (_, spec), seed in zip(data.prompts(split, n), seeds)]
    image_u8 = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).contiguous()
    folders = {}
    for name, damage in DAMAGE.items():
        folders[name] = folder = out / "images" / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(damage(image_u8)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:05d}.png")
    return folders


def main() -> None:
    from evaluate import main as evaluate

    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__.splitlines()[0])
    parser.add_argument("ckpt", nargs="+", help="runs, checkpoints or names in zoo/; the first one's data has the prompts")
    parser.add_argument("--split", default="iid", help="of the prompts (default iid)")
    parser.add_argument("--n", type=positive(int), default=256, help="images of each kind (default 256)")
    parser.add_argument("--out", type=Path, default=OUT, help="where everything goes")
    args = parser.parse_args()
    found = []
    common = [f"n={args.n}", f"splits=[{args.split}]"]
    for name, folder in write_folders(args.ckpt[0], args.split, args.n, args.out).items():
        found.append(args.out / folder.name)
        print(f"{name} …", flush=True)
        evaluate([*common, f"images='{folder}'", f"reference={args.ckpt[0]}", f"name='{name}'", f"out='{found[-1]}'"])
    for ckpt in args.ckpt:
        found.append(args.out / Path(ckpt).name)
        evaluate([*common, f"ckpt={ckpt}", f"out='{found[-1]}'"])
    folders = ",".join(f"'{folder}'" for folder in found)
    evaluate([f"compare=[{folders}]", f"out='{args.out}'"])


if __name__ == "__main__":
    run(main)
