"""A larger text encoder or a larger U-Net: which draws more of the scenes as told? The base stage of Imagen, trained with each.

python -m benchmarks.encoder_sizes --mpnet DIRECTORY [--steps 2200 --n 512 --rows minilm/middle … --jobs 2 --publish]

Equal for all: images, their order, captions, steps, settings of training and of drawing. Only the frozen encoder and the size of the U-Net differ.
MiniLM and MPNet were trained on the same pairs of sentences (sentence-transformers' all-*); `minilm_1` is MiniLM cut off after its first layer.
The base draws 32 pixels, which are enlarged (bicubic) for the scene parser and for fd_clip_scenes, whose real images are made the same way.
All rows draw the same scenes with the same noise, so that the second table can compare them scene by scene.
Rows that --dir holds are not made again. With --publish the table goes into docs/text_to_image.md.

Source: Saharia et al. 2022 (Imagen), figure 4: scaling the text encoder against scaling the U-Net.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.diffusion_table import make_rows
from benchmarks.peer_ddpm import processor_sec
from benchmarks.tables import describe, fill
from contracts import Request
from datamodules.scenes import scene_spec
from evaluation.extractors.trained_clip import TrainedCLIP
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.images import to_uint8
from runtime.checkpoint import load_module
from scenes.captions import caption
from scenes.grammar import SceneSpec
from scenes.parser import parse
from scenes.render import render
from scenes.scoring import aggregate, score, wilson

PAGE, SIDE, BASE_SIDE, BATCH, PRESET = REPO / "docs" / "text_to_image.md", 64, 32, 32, "scenes_simple"
SPLITS = ("iid", "combo")
QUIET = ("callbacks.validate=null", "callbacks.samples=null", "callbacks.evaluate=null", "logger.wandb=null")
# Name -> overrides, and what the table calls it. mpnet's folder comes from the command line.
ENCODERS = {
    "minilm_1": (("text_encoder.encoder.layer=-6",), "MiniLM, first layer of 6"),
    "minilm": ((), "MiniLM, 6 layers"),
    "mpnet": (("text_encoder=mpnet",), "MPNet, 12 layers"),
}
NET = "model.stages.base.net"
NETS = {
    "small": (f"{NET}.dim=24", f"{NET}.dim_mults=[1,4]", f"{NET}.mid_blocks=2", f"{NET}.tokens_dim=96"),
    "middle": (),
    "large": (f"{NET}.dim=40", f"{NET}.dim_mults=[1,4]", f"{NET}.mid_blocks=5", f"{NET}.tokens_dim=160"),
}
JUDGE = "clip-scenes-judge"  # a CLIP of the zoo that no generator was trained with
ROWS = tuple(f"{encoder}/{net}" for net in NETS for encoder in ENCODERS if encoder != "minilm_1" or net == "middle")


@dataclass(frozen=True)
class Settings:
    """What every row is given; n scenes of each split are drawn."""

    steps: int = 2200
    n: int = 512
    seed: int = 0


def words_of(row: str, s: Settings, mpnet: Path | None) -> list[str]:
    """The settings of a row's training, after `python train.py`."""
    encoder, net = row.split("/")
    where = [f"text_encoder.encoder.model_id={mpnet}"] if encoder == "mpnet" and mpnet else []
    return ["model=imagen", "trainer=cpu", "model.train_stages=[base]", f"seed={s.seed}", f"trainer.max_steps={s.steps}", *QUIET,
            *ENCODERS[encoder][0], *where, *NETS[net]]  # fmt: skip


def make_row(row: str, s: Settings, folder: Path, mpnet: Path | None) -> None:
    """Trains and judges a row below `folder` unless it is there.

    Raises: ValueError if that folder holds a row with other settings.
    """
    import train

    torch.set_num_threads(1)
    out = folder / row
    if (out / "job.json").exists() and json.loads((out / "job.json").read_text()) != asdict(s):
        raise ValueError(f"{out} holds a row with other settings: remove it or choose another --dir")
    write_json(out / "job.json", asdict(s))
    if (out / "row.json").exists():
        return
    if not (out / "trained.json").exists():
        shutil.rmtree(out / "run", ignore_errors=True)  # of a training that did not end
        began = processor_sec()
        train.main([*words_of(row, s, mpnet), f"run_dir={out / 'run'}"])
        write_json(out / "trained.json", {"cpu_sec": processor_sec() - began})
    module, _, info = load_module(out / "run", trust=(str(mpnet),) if mpnet else ())
    facts = {
        **json.loads((out / "trained.json").read_text()), "images": info["images_seen"],
        "parameters": sum(p.numel() for p in module.stages[module.base].parameters()),
        "encoder_parameters": encoder_size(row.split("/")[0], module.text_encoder), "splits": {split: judged(module.eval(), split, s.n) for split in SPLITS},
    }  # fmt: skip
    write_json(out / "row.json", facts)


def encoder_size(name: str, text_encoder: Any) -> int:
    """Parameters that a caption passes through; of `minilm_1` the table of tokens and one layer."""
    model = text_encoder.encoder.loaded[1]
    layers = model.encoder.layer
    unused = layers[1:] if name == "minilm_1" else ()
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for layer in unused for p in layer.parameters())


@torch.inference_mode()
def judged(module: Any, split: str, n: int) -> dict[str, Any]:
    """What n scenes of a split got: skill -> share, which of those with objects are all correct (a 1 or a 0 each), and the Fréchet distance from true pictures."""
    specs = [scene_spec(PRESET, split, "encoder sizes", 0, i) for i in range(n)]
    parts = [range(begin, min(begin + BATCH, n)) for begin in range(0, n, BATCH)]
    drawn_u8 = torch.cat([draw(module, [specs[i] for i in part], part) for part in parts])
    objects = [i for i in range(n) if specs[i].kind != "word"]
    found = [score(specs[i], parse(drawn_u8[i].permute(1, 2, 0).numpy())) for i in objects]
    extractor = TrainedCLIP(load_module, JUDGE)
    true = extractor(true_pictures(specs, 0))
    distances = {"fd": frechet_of_features(extractor(drawn_u8), true), "fd_real": frechet_of_features(extractor(true_pictures(specs, n)), true)}
    return {"skills": {name: row["mean"] for name, row in aggregate(found).items()}, "exact": "".join(f"{one['all_correct']:.0f}" for one in found), **distances}


def draw(module: Any, specs: Sequence[SceneSpec], seeds: Sequence[int]) -> Tensor:
    """uint8 (B, 3, 64, 64), by the base alone, enlarged."""
    texts = [caption(spec, seed, preset=PRESET) for spec, seed in zip(specs, seeds)]
    return enlarged(module.sample(Request(len(texts), texts=texts), seeds=list(seeds), stages=[module.base]).float())


def enlarged(image: Tensor) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> uint8 (B, 3, 64, 64)."""
    return to_uint8(F.interpolate(image, size=SIDE, mode="bicubic"))


def true_pictures(specs: Sequence[SceneSpec], first_seed: int) -> Tensor:
    """uint8 (B, 3, 64, 64): the scenes as they are, each with a layout by its seed, made as small as the base's pictures and enlarged again."""
    image = torch.stack([torch.from_numpy(render(spec, first_seed + i, SIDE)[0]).permute(2, 0, 1) / 127.5 - 1 for i, spec in enumerate(specs)])
    return enlarged(F.avg_pool2d(image, SIDE // BASE_SIDE))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each row: sizes, cost, then alignment in per cent, with its Wilson 95 % interval, and distances."""
    head = ["text encoder", "its parameters", "U-Net", "its parameters", "processor minutes"]
    for split in SPLITS:
        head += [f"`{split}`: all correct", "count", "shape", "binding", "relation", "fd_clip_scenes"]
    lines = []
    for row, facts in rows.items():
        encoder, net = row.split("/")
        line = [ENCODERS[encoder][1], f"{facts['encoder_parameters'] / 1e6:.1f} M", net, f"{facts['parameters'] / 1e6:.1f} M", f"{facts['cpu_sec'] / 60:.0f}"]
        for split in SPLITS:
            found = facts["splits"][split]
            low, high = wilson(found["exact"].count("1"), len(found["exact"]))
            line += [f"{100 * found['skills']['all_correct']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"]
            line += [*(f"{100 * found['skills'][skill]:.0f}" for skill in ("count", "shape", "binding", "relation")), f"{found['fd']:.3f}"]
        lines.append(line)
    reals = [[*[""] * 5, f"{found['fd_real']:.3f}"] for found in next(iter(rows.values()))["splits"].values()] if rows else []
    return markdown_table(head, [*lines, ["real images", "", "", "", "", *(cell for real in reals for cell in real)]])


def differences(rows: dict[str, dict[str, Any]]) -> str:
    """A line for each two rows of which one has the larger encoder, or the larger net: what that adds to all-correct scenes, in points."""
    encoders, nets = list(ENCODERS), list(NETS)
    steps = [(f"{a}/{net}", f"{b}/{net}") for a, b in zip(encoders, encoders[1:]) for net in nets]
    steps += [(f"{encoder}/{a}", f"{encoder}/{b}") for a, b in zip(nets, nets[1:]) for encoder in encoders]
    lines = []
    for a, b in steps:
        if a in rows and b in rows:
            larger, of = ("encoder", "encoder_parameters") if a.split("/")[1] == b.split("/")[1] else ("U-Net", "parameters")
            ratio = rows[b][of] / rows[a][of]
            lines.append([a, b, f"{larger}, {ratio:.1f} times", *(gain(*(rows[row]["splits"][split]["exact"] for row in (a, b))) for split in SPLITS)])
    return markdown_table(["from", "to", "larger", *(f"`{split}`: all correct, points" for split in SPLITS)], lines)


def gain(before: str, after: str) -> str:
    """Percentage points that are gained on the same scenes, with the 95 % interval of their mean (normal, scene by scene)."""
    change = torch.tensor([int(b) - int(a) for a, b in zip(before, after, strict=True)], dtype=torch.float64)
    mean, half = change.mean(), 1.96 * change.std() / len(change) ** 0.5
    return f"{100 * mean:+.0f} [{100 * (mean - half):+.0f}, {100 * (mean + half):+.0f}]"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_sizes", description=__doc__.splitlines()[0])
    for name, text in (("steps", "of each training, 32 images a step"), ("n", "scenes of each split to draw")):
        parser.add_argument(f"--{name}", type=positive(int), default=getattr(Settings, name), help=f"{text} (default {getattr(Settings, name)})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mpnet", type=Path, help="folder with all-mpnet-base-v2; without it the hub is asked")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="to make; others are kept")
    parser.add_argument("--jobs", type=positive(int), default=1, help="rows at once (default 1)")
    parser.add_argument("--dir", type=Path, default=REPO / "runs" / "encoder_sizes", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "encoder_sizes.json", help="where the JSON goes")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/text_to_image.md")
    parser.add_argument("--only-row", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    s, folder, mpnet = Settings(args.steps, args.n, args.seed), args.dir.resolve(), args.mpnet and args.mpnet.resolve()
    if args.only_row:
        make_row(args.only_row, s, folder, mpnet)
        return
    words = [*(f"--{k}={v}" for k, v in asdict(s).items()), *([f"--mpnet={mpnet}"] if mpnet else []), f"--dir={folder}"]
    make_rows(args.rows, args.jobs, words, folder, "encoder_sizes")
    rows = {row: json.loads(file.read_text()) for row in ROWS if (file := folder / row / "row.json").exists()}
    result = {
        "benchmark": "encoder_sizes", "settings": asdict(s), "machine": machine(1), **provenance("torch", "transformers"), "rows": rows,
    }  # fmt: skip
    write_json(args.out, result)
    block = f"{table(rows)}\n\n{differences(rows)}"
    print(block)
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "encoder_sizes", f"\n{block}\n\n{describe(result)}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
