"""What a training of the published Imagen takes on N GPUs, by arithmetic: memory, hours, network, checkpoints, failures.

python -m benchmarks.scale_plan [--model imagen_paper --gpus 8 64 1024 --peak-tflops 989 --share 0.4 --publish]

Parameters and operations are counted on the nets as they are configured, on tensors without contents; a training step costs three forward passes. Everything else is an
assumption that stands beside the table and can be changed here. Nothing in the table was run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, run, write_json
from benchmarks.tables import fill
from runtime.build import instantiate
from runtime.config import compose

PAGE = REPO / "docs" / "scale.md"
GPUS_OF_A_MACHINE = 8
TRAIN = 12  # bytes a parameter that each process or its share holds: weight, two moments of Adam; the gradient comes and goes
AVERAGE, GRADIENT = 4, 4
WRITTEN = 16  # bytes a parameter in a checkpoint: weight, average and two moments


@dataclass(frozen=True)
class Assumed:
    """What cannot be counted here."""

    peak_tflops: float = 989.0  # of one GPU in bfloat16, as its maker names it
    share: float = 0.4  # of it that a training step uses
    batch: int = 2048
    steps: int = 2_500_000
    network_gb: float = 50.0  # a second into and out of each GPU, between machines
    inside_gb: float = 450.0  # a second, within a machine
    disk_gb: float = 1.0  # a second that a checkpoint is written with
    gpu_hours_a_failure: float = 50_000.0  # 419 interruptions in 54 days of 16,384 GPUs (Grattafiori et al. 2024, section 3.3.4)
    dollars_a_gpu_hour: float = 2.5


def counted(model: str, tokens: int = 128) -> list[dict[str, Any]]:
    """Stage, its parameters, and the operations of a training image. Raises ValueError for a model without stages of pixels."""
    cfg = compose("train", [f"model={model}", *(["data.root=images"] if model.endswith("_paper") else [])])
    stages = [(name, stage) for name, stage in (cfg.model.get("stages") or {}).items() if stage.space.get("image_size")]
    if not stages:
        raise ValueError(f"--model {model}: it has no stages of pixels; choose a cascade, for instance imagen_paper")
    found = []
    for name, stage in stages:
        size = (stage.get("lowres") or {}).get("crop_size") or stage.space.image_size
        with FakeTensorMode():
            net = instantiate(stage.net)
            found.append({"stage": name, "parameters": sum(p.numel() for p in net.parameters()), "gflop": 3 * forward_gflop(net, size, tokens)})
    return found


def forward_gflop(net: nn.Module, size: int, tokens: int) -> float:
    """10^9 operations of a forward pass of one image (1, 3, size, size) and its text."""
    told = {"channels": torch.zeros(1, net.cond_channels, size, size)} if net.cond_channels else {}
    if net.tokens_dim:
        told |= {"tokens": torch.zeros(1, tokens, net.tokens_dim), "token_mask": torch.ones(1, tokens, dtype=torch.bool)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, size, size), torch.zeros(1), **told)
    return counter.get_total_flops() / 1e9


def planned(stage: dict[str, Any], gpus: int, a: Assumed) -> dict[str, float]:
    """What one stage takes on so many GPUs: GB of memory for its weights whole and shared out, seconds, days, dollars."""
    parameters = stage["parameters"]
    compute = stage["gflop"] * a.batch / gpus / (a.peak_tflops * 1e3 * a.share)
    slow = a.inside_gb if gpus <= GPUS_OF_A_MACHINE else a.network_gb
    exchange = 2 * (gpus - 1) / gpus * GRADIENT * parameters / 1e9 / slow  # of an all-reduce in a ring, hidden behind the backward pass at best
    days = a.steps * max(compute, exchange) / 86400
    save, failure = WRITTEN * parameters / 1e9 / a.disk_gb, a.gpu_hours_a_failure * 3600 / gpus
    every = math.sqrt(2 * save * failure)  # Young 1974: where writing and what is lost cost the same
    return {
        "whole_gb": (TRAIN + AVERAGE + GRADIENT) * parameters / 1e9,
        "shared_gb": (TRAIN + AVERAGE + GRADIENT) * parameters / 1e9 / gpus,
        "compute_sec": compute,
        "exchange_sec": exchange,
        "days": days,
        "dollars": days * 24 * gpus * a.dollars_a_gpu_hour,
        "failure_hours": failure / 3600,
        "save_sec": save,
        "save_every_sec": every,
        "lost": save / every + every / 2 / failure,
    }


def table(stages: Sequence[dict[str, Any]], gpus: Sequence[int], a: Assumed) -> str:
    head = ["stage", "GPUs", "images each", "GB each, whole", "shared out", "step: computing, s", "gradients, s", "days", "million $", "hours a failure", "checkpoint, s", "best every", "time lost"]
    rows = []
    for stage in stages:
        for n in gpus:
            p = planned(stage, n, a)
            rows.append([
                f"`{stage['stage']}`", f"{n:,}", f"{a.batch / n:g}", f"{p['whole_gb']:.0f}", f"{p['shared_gb']:.2g}", f"{p['compute_sec']:.2g}", f"{p['exchange_sec']:.2g}",
                f"{p['days']:,.0f}", f"{p['dollars'] / 1e6:.2f}", f"{p['failure_hours']:,.0f}", f"{p['save_sec']:.0f}", f"{p['save_every_sec'] / 60:.0f} min", f"{p['lost']:.1%}",
            ])  # fmt: skip
    return markdown_table(head, rows)


def told(stages: Sequence[dict[str, Any]], a: Assumed) -> str:
    """What the table rests on, in words."""
    nets = ", ".join(f"`{s['stage']}` {s['parameters'] / 1e6:,.0f} M parameters and {s['gflop']:,.0f} GFLOP a training image" for s in stages)
    return (
        f"Counted: {nets}. Assumed: {a.peak_tflops:g} TFLOP/s a GPU, of which a step uses {a.share:.0%}; batches of {a.batch:,}, {a.steps / 1e6:g} million steps a stage; {a.network_gb:g} GB/s between machines, "
        f"{a.inside_gb:g} within one; {a.disk_gb:g} GB/s to the disk; a failure in {a.gpu_hours_a_failure:,.0f} GPU hours; {a.dollars_a_gpu_hour:g} $ a GPU hour. Computed: the rest. "
        "A step takes as long as the longer of computing and exchanging gradients, since one hides the other."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_plan", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="imagen_paper", help="a cascade of conf/model (default imagen_paper)")
    parser.add_argument("--gpus", nargs="+", type=positive(int), default=[8, 64, 1024])
    parser.add_argument("--peak-tflops", type=positive(float), default=Assumed.peak_tflops, help="of a GPU (default 989)")
    parser.add_argument("--share", type=positive(float), default=Assumed.share, help="of it that a step uses (default 0.4)")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/scale.md")
    args = parser.parse_args(argv)
    a = Assumed(peak_tflops=args.peak_tflops, share=args.share)
    stages = counted(args.model)
    result = {"benchmark": "scale_plan", "settings": {"model": args.model, **asdict(a)}, "machine": machine(1), **provenance("torch"), "stages": stages}
    text = f"{table(stages, args.gpus, a)}\n\n{told(stages, a)}"
    print(text)
    if args.publish:
        write_json(RESULTS / "scale_plan.json", result)
        PAGE.write_text(fill(PAGE.read_text(), "scale_plan", f"\n{text}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
