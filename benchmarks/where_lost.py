"""At which noise level is a picture lost? Scenes drawn on from true pictures that are noised to a level.

python -m benchmarks.where_lost [--ckpt imagen-scenes --n 64 --publish]

True pictures of groups and pairs are noised to a level, and the first stage draws on from there, with its own sampler, guidance and those of its steps
that lie below. The picture that it starts from is as its caption tells. So what is wrong in the end went wrong below that level, and a model that loses
nothing there gives 100 %. The first column starts from noise alone. Pictures of the first stage are enlarged (bicubic) for the scene parser. With
--publish the table goes into docs/imagen.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.harder import LADDERS, PRESET, read_back, scenes
from benchmarks.tables import describe, fill
from contracts import Request
from diffusion.schedules import NoiseSchedule
from evaluation.metrics.images import to_uint8
from rng.keyed import keyed_generators, randn
from runtime.checkpoint import load_module
from scenes.captions import caption
from scenes.grammar import SceneSpec
from scenes.render import render

PAGE, SIDE, BATCH, TAG = REPO / "docs" / "imagen.md", 64, 32, "where lost"
LEVELS = (None, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0)  # log-SNR; None starts from noise alone
RUNGS = {name: draw for name, seen, draw in LADDERS if seen}


def times_below(schedule: NoiseSchedule, num_steps: int, log_snr: float | None) -> Tensor:
    """The times of a sampler from a noise level on: the level's, then those of the schedule's num_steps below it. All of them for None."""
    grid = schedule.grid(num_steps)
    if log_snr is None:
        return grid
    first = schedule.t_from_log_snr(torch.tensor([log_snr], dtype=grid.dtype))
    return torch.cat([first, grid[grid < first]])


@torch.inference_mode()
def draw_on(module: Any, rung: Sequence[tuple[int, SceneSpec]], log_snr: float | None) -> Tensor:
    """uint8 (B, 3, 64, 64): the first stage draws scenes on from their true pictures at a noise level."""
    name, stage = module.base, module.stages[module.base]
    texts = [caption(spec, seed, preset=PRESET) for seed, spec in rung]
    times = times_below(stage.schedule, stage.num_steps, log_snr)
    generators = keyed_generators([seed for seed, _ in rung], name, TAG)
    x = randn((len(rung), *stage.space.shape), generators, "cpu") * stage.schedule.sigma(times[0])
    if log_snr is not None:
        image = torch.stack([torch.from_numpy(render(spec, seed, SIDE)[0]).permute(2, 0, 1) / 127.5 - 1 for seed, spec in rung])
        x = x + stage.schedule.alpha(times[0]) * stage.space.encode({"image": image})
    denoise = stage.guided(module.request_fields(Request(len(rung), texts=texts)))
    x_0 = stage.sampler(denoise, stage.schedule, x.float(), num_steps=len(times) - 1, generator=generators, grid=lambda _: times)
    return to_uint8(F.interpolate(stage.space.decode(x_0).float(), size=SIDE, mode="bicubic"))


def measure(module: Any, n: int, levels: Sequence[float | None] = LEVELS) -> dict[str, list[float]]:
    """Kind of scene -> share of n that is all correct, for each level."""
    found = {}
    for name, draw in RUNGS.items():
        rung, shares = scenes(draw, n), []
        for level in levels:
            parts = [rung[begin : begin + BATCH] for begin in range(0, n, BATCH)]
            right = [skills["all_correct"] for part in parts for skills in read_back([spec for _, spec in part], draw_on(module, part, level))]
            shares.append(sum(right) / n)
        found[name] = shares
        print(f"{name}: {' '.join(f'{share:.0%}' for share in shares)}", flush=True)
    return found


def table(found: dict[str, list[float]], levels: Sequence[float | None] = LEVELS) -> str:
    """Per cent of a kind of scene, by the level from which it was drawn on."""
    head = ["all correct, drawn on from a log-SNR of", *("noise" if level is None else f"{level:g}" for level in levels)]
    return markdown_table(head, [[name, *(f"{share:.0%}" for share in shares)] for name, shares in found.items()])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where_lost", description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="imagen-scenes", help="a run, a checkpoint or a name in zoo/ (default imagen-scenes)")
    parser.add_argument("--n", type=positive(int), default=64, help="scenes of each kind (default 64)")
    parser.add_argument("--trust", nargs="*", default=[], help="places outside this repository that the run names")
    parser.add_argument("--publish", action="store_true", help="write the table into docs/imagen.md")
    args = parser.parse_args(argv)
    module = load_module(args.ckpt, trust=tuple(args.trust))[0].eval()
    if module.conditioning != "text" or not hasattr(module, "stages"):
        raise ValueError(f"--ckpt {args.ckpt}: this is no diffusion model of texts")
    found = measure(module, args.n)
    result = {
        "benchmark": "where_lost", "settings": {"model": args.ckpt, "scenes of each kind": args.n}, "machine": machine(torch.get_num_threads()),
        **provenance("torch"), "levels": LEVELS, "found": found,
    }  # fmt: skip
    write_json(RESULTS / "where_lost.json", result)
    print(table(found))
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "where_lost", f"\n{table(found)}\n\n{describe(result)}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
