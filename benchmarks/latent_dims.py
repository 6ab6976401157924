"""What 2, 5, 10 and 20 latent dimensions are worth: likelihood, rate, distortion, a Fréchet distance, and a picture.

python -m benchmarks.latent_dims [--runs FOLDER --dims 2 5 10 20 --n 1000 --k 500] [trainer.max_steps=… data.root=…]

Takes the runs of experiment=lecture/vae_latent_dims from --runs, and trains those that are not there, with the settings
that follow. Writes the JSON, the picture, and the table in docs/vae.md where that page has a place for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import describe, fill
from contracts import Request
from evaluation.extractors.base import FeatureExtractor
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.images import to_uint8
from evaluation.pictures.captioned_grid import to_pil
from runtime.build import instantiate_untrusted
from runtime.checkpoint import load_module

PAGE, PICTURE = REPO / "docs" / "vae.md", REPO / "docs" / "images" / "vae_latent_dims.png"
COLUMNS, SAMPLE_ROWS, PAIRS = 6, 5, 3  # images side by side in a panel
PLANE = "the latent plane, at equal steps of the prior's probability"
DRAWS = 64  # of the posterior, for the deviation of a pixel
MANIFOLD = 20  # images along each axis of a two-dimensional latent
ZOOM, GAP, HEADING = 2, 16, 20  # pixels
Batch = dict[str, Any]


def found_or_trained(folder: Path, dims: Sequence[int], overrides: Sequence[str]) -> dict[int, Path]:
    """The run of each latent dimension below `folder`, trained with the overrides if it is not there."""
    import train

    runs = {dim: folder / f"latent_dim_{dim}" for dim in dims}
    for dim, path in runs.items():
        if not any((path / "checkpoints").glob("step=*.ckpt")):
            experiment = ["experiment=lecture/vae_latent_dims", f"model.latent_dim={dim}", f"run_dir={path}"]
            train.main([*experiment, *overrides])
    return runs


def held_out(node: Any, n: int) -> tuple[list[Batch], Tensor]:
    """The first n test images as batches, and n validation images (uint8) to compare with.

    Raises: ValueError where there are fewer.
    """
    data = instantiate_untrusted(node)
    data.setup("test")
    if n > (most := min(len(data.test_dataset), len(data.val_dataset))):
        raise ValueError(f"--n {n}: there are {most} images to test with")
    batches = [data.test_dataset.__getitems__([(i, i) for i in range(n)[at : at + 100]]) for at in range(0, n, 100)]
    return batches, to_uint8(data.val_dataset.__getitems__([(i, i) for i in range(n)])["image"])


def measure(module: Any, batches: Sequence[Batch], k: int, extractor: FeatureExtractor) -> dict[str, float]:
    """The numbers of one model on held-out images; pixels are drawn for the distance, as those of the data were."""
    module.eval_importance_samples = (k,)
    bounds = [module.likelihood(batch) for batch in batches]
    row = {name: float(torch.cat([b[name] for b in bounds]).mean()) for name in bounds[0]}
    row |= {name: value for name, value in module.health(batches).items() if name != "rate_per_dim_nats"}
    real = to_uint8(torch.cat([batch["image"] for batch in batches]))
    seeds = torch.arange(len(real)).split(100)
    fake = to_uint8(torch.cat([module.sample(Request(len(s)), seeds=s.tolist(), mode="sample") for s in seeds]))
    return row | {f"fd_{extractor.id}": frechet_of_features(extractor(real), extractor(fake))}


# ---- the picture ----


@torch.no_grad()
def uncertainty(module: Any, image: Tensor, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (B, C, S, S) each, of the reconstructions over draws of the posterior."""
    mean, log_var = module.encode(image)
    eps = torch.randn(draws, *mean.shape, generator=torch.Generator().manual_seed(0))
    rebuilt = module.pixels.mean(module.decode(mean + torch.exp(log_var / 2) * eps))  # (draws, B, C, S, S)
    return rebuilt.mean(0), rebuilt.std(0)


@torch.no_grad()
def interpolations(module: Any, start: Tensor, end: Tensor, steps: int = COLUMNS) -> Tensor:
    """Images (B * steps, C, S, S) along the straight line between the posterior means of two images, row by row."""
    a, b = (module.encode(image)[0] for image in (start, end))
    z = torch.lerp(a[:, None], b[:, None], torch.linspace(0, 1, steps)[:, None])  # (B, steps, d)
    return module.pixels.mean(module.decode(z)).flatten(0, 1)


@torch.no_grad()
def manifold(module: Any, side: int = MANIFOLD) -> Tensor:
    """Images (side², C, S, S) of a two-dimensional latent at equal steps of the prior's probability on both axes.

    Source: Kingma and Welling 2014, figure 4
    """
    axis = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    return module.pixels.mean(module.decode(torch.cartesian_prod(axis.flip(0), axis).flip(1)))


def panels(module: Any, batches: Sequence[Batch]) -> dict[str, tuple[Tensor, int]]:
    """What is shown of one model: heading -> (images, how many side by side)."""
    image, label = (torch.cat([batch[name] for batch in batches]) for name in ("image", "label"))
    # the first image of each class, so that every model is shown the same and no two alike
    shown = image[[int((label == c).nonzero()[0]) for c in label.unique()]][:COLUMNS]
    mean, std = uncertainty(module, shown)
    half = min(PAIRS, len(shown) // 2)
    n = COLUMNS * SAMPLE_ROWS
    found = {
        "samples of the prior": (module.sample(Request(n), seeds=range(n)), COLUMNS),
        "between two images": (interpolations(module, shown[:half], shown[half : 2 * half]), COLUMNS),
        f"image, its reconstruction, deviation over {DRAWS} draws": (torch.cat([shown, mean, std * 2 - 1]), len(shown)),
    }
    if module.latent_dim == 2:
        found[PLANE] = manifold(module), MANIFOLD
    return found


def picture(shown: dict[int, dict[str, tuple[Tensor, int]]]) -> Image.Image:
    """A column of panels for each latent dimension; the latent plane, where there is one, below them."""
    columns, below = [], []
    for dim, part in shown.items():
        drawn = {heading: titled(heading, mosaic(image, across)) for heading, (image, across) in part.items()}
        below += [drawn.pop(PLANE)] if PLANE in drawn else []
        columns.append(titled(f"{dim} latent dimensions", stacked(list(drawn.values()), down=True)))
    return stacked([stacked(columns, down=False), *below], down=True)


def mosaic(image: Tensor, across: int) -> Image.Image:
    """Images (N, C, S, S) in [-1, 1] without gaps, `across` side by side."""
    side, rows = image.shape[-1] * ZOOM, -(-len(image) // across)
    sheet = Image.new("RGB", (across * side, rows * side), "white")
    for i, one in enumerate(to_uint8(image)):
        tile = to_pil(one).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(tile, (i % across * side, i // across * side))
    return sheet


def titled(text: str, below: Image.Image) -> Image.Image:
    """A picture under a line of text."""
    sheet = Image.new("RGB", (below.width, below.height + HEADING), "white")
    ImageDraw.Draw(sheet).text((0, 2), text, fill="black", font=ImageFont.load_default(13))
    sheet.paste(below, (0, HEADING))
    return sheet


def stacked(pictures: Sequence[Image.Image], down: bool) -> Image.Image:
    """Pictures below each other, or side by side, with gaps."""
    along = [(p.height if down else p.width) + GAP for p in pictures]
    across = max(p.width if down else p.height for p in pictures)
    sheet = Image.new("RGB", (across, sum(along)) if down else (sum(along), across), "white")
    for i, one in enumerate(pictures):
        at = sum(along[:i])
        sheet.paste(one, (0, at) if down else (at, 0))
    return sheet


# ---- the record ----


def benchmark(
    folder: Path, dims: Sequence[int], n: int, k: int, extractor: FeatureExtractor, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Image.Image]:
    """The numbers and the picture of one run for each latent dimension."""
    runs = found_or_trained(folder, dims, overrides)
    rows, shown, data = {}, {}, ""
    for dim, path in runs.items():
        module, config, info = load_module(path)
        module.eval()
        batches, others = held_out(config.data, n)
        row = measure(module, batches, k, extractor)
        rows[dim] = row | {"images_seen": info["images_seen"], "train_sec": info["train_sec"]}
        shown[dim], data = panels(module, batches), config.choices.data
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        print(f"{path}: {numbers}", file=sys.stderr, flush=True)
    real = to_uint8(torch.cat([batch["image"] for batch in batches]))
    result = {
        "benchmark": "latent_dims",
        "settings": {"data": data, "test images": n, "importance samples": k, "training images": info["images_seen"]},
        "machine": machine(torch.get_num_threads()),
        **provenance("torch", "timm"),
        "extractor": extractor.id,
        "rows": rows,
        "fd_of_real_images": frechet_of_features(extractor(real), extractor(others)),
    }
    return result, picture(shown)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    k, fd = result["settings"]["importance samples"], f"fd_{result['extractor']}"
    head = ["latent dimensions", f"-log p(x), IWAE-{k}", "-ELBO", "distortion", "rate", "mutual information",
            "active units", fd]  # fmt: skip
    lines = []
    for dim, row in result["rows"].items():
        unit = "density_nats" if "elbo_density_nats" in row else "nats"
        names = (f"iwae_{k}_{unit}", f"elbo_{unit}", f"distortion_{unit}", "rate_nats", "mutual_information_nats")
        lines.append([str(dim), *(f"{row[name]:.2f}" for name in names), str(row["active_units"]), f"{row[fd]:.4g}"])
    lines.append(["real images", *["–"] * 6, f"{result['fd_of_real_images']:.4g}"])
    return f"{markdown_table(head, lines)}\n\nNats per image; lower is better but for mutual information and units."


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_dims", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=REPO / "runs" / "vae" / "mnist", help="folder of the runs")
    parser.add_argument("--dims", type=positive(int), nargs="+", default=[2, 5, 10, 20], help="latent dimensions")
    parser.add_argument("--n", type=positive(int), default=1000, help="test images (default 1000)")
    parser.add_argument("--k", type=positive(int), default=500, help="importance samples (default 500)")
    parser.add_argument("--cache", type=Path, default=REPO / ".cache" / "features", help="where features are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "latent_dims.json", help="where the JSON goes")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where the picture goes")
    args, overrides = parser.parse_known_args()
    if wrong := [word for word in overrides if word.startswith("-")]:
        parser.error(f"unknown option {wrong[0]}")
    extractor = EfficientNetLite0(cache_dir=args.cache)
    result, sheet = benchmark(args.runs, args.dims, args.n, args.k, extractor, overrides)
    write_json(args.out, result)
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.picture, optimize=True)
    block = f"\n{table(result)}\n\n{describe(result)}\n\n"
    if PAGE.exists() and "<!-- latent_dims -->" in PAGE.read_text():
        PAGE.write_text(fill(PAGE.read_text(), "latent_dims", block, PAGE.name))
    print(f"{block}{args.out}; {args.picture}")


if __name__ == "__main__":
    run(main)
