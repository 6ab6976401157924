"""How fast one stage of a cascade trains and draws on this machine, and how much of the machine's peak that is.

python -m benchmarks.throughput [--model imagen_paper --stage base --width 1 --batch 64 --precision bf16 --ways plain compiled checkpointed
                                 --text-layers 24 --peak-tflops 989 --trace FILE --publish]

The stage is built as its configuration says, its widths times --width, and gets random images and vectors of captions. A training step is the stage's own
loss, its backward pass and AdamW. Operations are those of the plain forward and backward pass, as torch counts them (two for a multiplication with its addition); what
is computed again by activation checkpointing is no work that the model needs, so it counts for nothing. The peak is that of the product of two large
matrices in the same precision, measured beside it; --peak-tflops adds the share of what the maker names. Weights of the text encoder are random: only their
number and shapes matter here. On a GPU, memory and the times that a step waits for the device are stated too.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import REPO, RESULTS, machine, markdown_table, positive, provenance, require, run, write_json
from benchmarks.tables import describe, fill
from contracts import Batch
from networks.checkpointing import checkpoint_blocks
from networks.compiling import compile_nets
from runtime.build import instantiate
from runtime.config import compose

PAGE = REPO / "docs" / "scale.md"
WAYS: dict[str, Callable[[nn.Module], Any]] = {"plain": lambda stage: None, "compiled": compile_nets, "checkpointed": checkpoint_blocks}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WIDTHS = ("dim", "tokens_dim", "emb_dim")
T5_XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128)
T5_LAYERS = 24
MIN_TURNS = 3


@dataclass(frozen=True)
class Settings:
    """What is measured; `seconds` is the time of each figure."""

    model: str = "imagen_paper"
    stage: str = "base"
    width: float = 1.0
    batch: int = 64
    tokens: int = 128
    precision: str = "bf16"
    seconds: float = 20.0
    sample_steps: int = 4
    text_layers: int = 0


def device_here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_sec(work: Callable[[], Any], seconds: float, device: str) -> float:
    """Median duration of a call, after one that is not counted."""
    work()
    wait(device)
    times: list[float] = []
    while len(times) < MIN_TURNS or sum(times) < seconds:
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@functools.cache
def config_of(s: Settings) -> DictConfig:
    """The configuration of a stage of conf/model with its widths times `width`, in whole heads of attention.

    Raises: ValueError for a model without such a stage.
    """
    words = [f"model={s.model}", *(["data.root=images"] if s.model.endswith("_paper") else [])]
    stages = compose("train", words).model.get("stages") or {}
    if s.stage not in stages or "space" not in stages[s.stage] or "image_size" not in stages[s.stage].space:
        raise ValueError(f"--model {s.model} --stage {s.stage}: it has no such stage of pixels; it has {', '.join(stages) or 'no stages'}")
    net, key = stages[s.stage].net, f"model.stages.{s.stage}.net"
    unit = net.get("head_dim") or 64
    scaled = [f"{key}.{name}={max(unit, unit * round(net[name] * s.width / unit))}" for name in WIDTHS if s.width != 1 and net.get(name)]
    return compose("train", [*words, *scaled]).model.stages[s.stage]


def stage_of(s: Settings, device: str) -> Any:
    """The diffusion stage with the weights of seed 0."""
    torch.manual_seed(0)
    return instantiate(config_of(s)).to(device)


def batch_of(s: Settings, device: str) -> Batch:
    """Random images (B, 3, S, S) and captions' vectors (B, tokens, D)."""
    draw, config = torch.Generator().manual_seed(0), config_of(s)
    text_dim, size = config.conditioners.text.text_dim, config.space.image_size
    return {
        "seed": torch.arange(s.batch),
        "image": torch.rand(s.batch, 3, size, size, generator=draw).to(device) * 2 - 1,
        "text_embeds": torch.randn(s.batch, s.tokens, text_dim, generator=draw).to(device),
        "text_mask": torch.ones(s.batch, s.tokens, dtype=torch.bool, device=device),
        "text_keep": torch.ones(s.batch, dtype=torch.bool, device=device),
    }


def training_step(stage: Any, batch: Batch, s: Settings, device: str) -> Callable[[], None]:
    """The stage's loss, its backward pass and AdamW."""
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-4, fused=True)
    u = (torch.arange(s.batch, device=device) + 0.5) / s.batch

    def step() -> None:
        with torch.autocast(device, DTYPES[s.precision], enabled=s.precision != "fp32"):
            loss = stage.loss(batch, u, s.stage).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def gflop_per_image(stage: Any, batch: Batch) -> float:
    """10^9 operations of the forward and backward pass, per image."""
    part = {key: value[:1] for key, value in batch.items()}
    with FlopCounterMode(display=False) as counter:
        stage.loss(part, torch.full((1,), 0.5, device=part["image"].device), "count").mean().backward()
    stage.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 1e9


def peak_tflops(precision: str, device: str, seconds: float) -> float:
    """10^12 operations a second of the product of two large square matrices."""
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(DTYPES[precision]) for _ in range(2))
    return 2 * n**3 / median_sec(lambda: a @ b, seconds, device) / 1e12


def waits(step: Callable[[], None], device: str) -> int | None:
    """How often one training step waits for the GPU; None on a CPU."""
    if device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchron" in str(w.message) for w in told)


def measure_way(way: str, s: Settings, device: str) -> dict[str, Any]:
    """Training images a second of one way, what it takes of memory, and how often it waits."""
    stage, batch = stage_of(s, device).train(), batch_of(s, device)
    WAYS[way](stage)
    step = training_step(stage, batch, s, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sec = median_sec(step, s.seconds, device)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {"way": way, "images_a_second": s.batch / sec, "memory_gib": memory, "waits": waits(step, device)}


def measure_sampling(s: Settings, device: str) -> dict[str, Any]:
    """Images a second at the steps that the stage is configured to take, from a few that are measured; guided, both passes in one batch."""
    stage, batch = stage_of(s, device).eval(), batch_of(s, device)
    size = stage.space.image_size
    lowres = None if stage.lowres is None else torch.zeros(s.batch, 3, stage.lowres.size, stage.lowres.size, device=device)
    fields = {key: value for key, value in batch.items() if key not in ("image", "seed")}

    def draw() -> None:
        with torch.autocast(device, DTYPES[s.precision], enabled=s.precision != "fp32"):
            stage.sample(fields, list(range(s.batch)), s.stage, device=device, num_steps=s.sample_steps, guidance_scale=3.0, lowres=lowres)

    sec = median_sec(draw, s.seconds, device) * stage.num_steps / s.sample_steps
    return {"num_steps": stage.num_steps, "image_size": size, "images_a_second": s.batch / sec}


def measure_text(s: Settings, device: str) -> dict[str, Any]:
    """Captions a second of an encoder of T5-XXL's width with `text_layers` of its 24 layers, and of the whole by proportion."""
    transformers = require("transformers", "transformers")
    with torch.device(device):
        torch.manual_seed(0)
        encoder = transformers.T5EncoderModel(transformers.T5Config(**T5_XXL, num_layers=s.text_layers)).to(DTYPES[s.precision]).eval()
        ids = torch.ones(s.batch, s.tokens, dtype=torch.long)
    with torch.inference_mode():
        sec = median_sec(lambda: encoder(input_ids=ids), s.seconds, device)
    return {"layers": s.text_layers, "captions_a_second": s.batch / sec, "whole": s.batch / sec * s.text_layers / T5_LAYERS}


def measure(s: Settings, ways: Sequence[str]) -> dict[str, Any]:
    """Everything, one thing after another."""
    device = device_here()
    stage = stage_of(s, device).train()
    facts = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "parameters": sum(p.numel() for p in stage.parameters()),
        "gflop_per_image": gflop_per_image(stage, batch_of(s, device)),
    }
    del stage
    rows = []
    for way in ways:
        peak = peak_tflops(s.precision, device, s.seconds / 4)  # beside it: a shared machine changes its speed
        row = measure_way(way, s, device)
        tflops = row["images_a_second"] * facts["gflop_per_image"] / 1e3
        rows.append(row | {"tflops": tflops, "peak_tflops": peak, "share_of_peak": tflops / peak})
        print(f"{way}: {row['images_a_second']:.3g} images a second, {tflops / peak:.0%} of the peak", flush=True)
    text = measure_text(s, device) if s.text_layers else None
    return facts | {"rows": rows, "sampling": measure_sampling(s, device), "text": text}


def table(found: dict[str, Any], s: Settings, maker: float | None) -> str:
    """A line for each way, and what else was measured in words."""
    head = ["training step", "images a second", "TFLOP/s", "of a large product's", "of the maker's peak", "memory, GiB", "waits a step"]
    unknown = "not seen" if found["device"] == "CPU" else "-"
    rows = [
        [row["way"], f"{row['images_a_second']:.3g}", f"{row['tflops']:.3g}", f"{row['share_of_peak']:.0%}", f"{row['tflops'] / maker:.0%}" if maker else "-",
         *(unknown if row[key] is None else f"{row[key]:.3g}" for key in ("memory_gib", "waits"))] for row in found["rows"]
    ]  # fmt: skip
    drawn, text = found["sampling"], found["text"]
    told = [
        f"`{s.stage}` of `{s.model}` with {found['parameters'] / 1e6:,.1f} M parameters, {found['gflop_per_image']:,.1f} GFLOP an image forward and backward, on {found['device']}.",
        f"Drawing, guided, {drawn['num_steps']} steps of {drawn['image_size']} pixels: {drawn['images_a_second']:.3g} images a second.",
    ]
    if text:
        told.append(f"T5-XXL, {text['layers']} of {T5_LAYERS} layers: {text['captions_a_second']:.3g} captions of {s.tokens} tokens a second, so {text['whole']:.3g} of the whole.")
    return f"{markdown_table(head, rows)}\n\n{' '.join(told)}"


def write_trace(path: Path, s: Settings) -> None:
    """A trace of three training steps for chrome://tracing: gaps between kernels are time in which the device waits for Python."""
    device = device_here()
    stage = stage_of(s, device).train()
    step = training_step(stage, batch_of(s, device), s, device)
    step()
    with torch.profiler.profile() as profile:
        for _ in range(3):
            step()
        wait(device)
    profile.export_chrome_trace(str(path))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=Settings.model, help="a cascade of conf/model")
    parser.add_argument("--stage", default=Settings.stage, help="its stage")
    for name, about in (("width", "factor on the widths"), ("batch", "images at once"), ("tokens", "of a caption"), ("seconds", "of each figure"),
                        ("sample_steps", "that are measured of the sampler's")):  # fmt: skip
        default = getattr(Settings, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive(type(default)), default=default, help=f"{about} (default {default})")
    parser.add_argument("--precision", choices=list(DTYPES), default=Settings.precision)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=["plain", "checkpointed"], help="of training (default plain checkpointed)")
    parser.add_argument("--text-layers", type=positive(int), default=0, help="also measure T5-XXL with so many of its 24 layers")
    parser.add_argument("--peak-tflops", type=positive(float), help="what the maker of the device names for this precision")
    parser.add_argument("--trace", type=Path, help="write a trace of three training steps here")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/scale.md")
    parser.add_argument("--out", type=Path, default=RESULTS / "throughput.json", help="where the JSON goes")
    args = parser.parse_args(argv)
    s = Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})
    found = measure(s, args.ways)
    if args.trace:
        write_trace(args.trace, s)
    result = {"benchmark": "throughput", "settings": asdict(s), "machine": machine(torch.get_num_threads()), **provenance("torch"), **found}
    write_json(args.out, result)
    text = table(found, s, args.peak_tflops)
    print(f"\n{text}")
    if args.publish:
        PAGE.write_text(fill(PAGE.read_text(), "throughput", f"\n{text}\n\n{describe(result)}\n\n", PAGE.name))


if __name__ == "__main__":
    run(main)
