"""Training and sampling speed of our U-Net and of diffusers' UNet2DConditionModel, in one process, turn by turn.

python -m benchmarks.speed_unet [--size 32 --batch 64 --tokens 16 --threads 2 --seconds 20 --out FILE]

Equal for both: parameters (within 3 %), resolution, batch, text (B, tokens, 384), inputs, loss, optimiser, sampling
steps. Not equal: the architecture, and so the arithmetic per image, which the result states beside the speed.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import arguments, machine, markdown_table, provenance, publish, require, run
from diffusion.denoiser import Denoiser
from diffusion.guidance import guided
from diffusion.samplers import ddim
from diffusion.schedules import CosineSchedule
from networks.conditioners import TextConditioner
from networks.unet import UNet
from runtime.config import compose

TEXT_DIM = 384
SAMPLE_BATCH = 8
SAMPLE_STEPS = 25
GUIDANCE_SCALE = 3.0
MAX_DIFFERENCE = 0.03
MIN_TURNS = 3
LAYOUTS = {"channels_last": torch.channels_last, "plain": torch.contiguous_format}


@dataclass(frozen=True)
class Settings:
    """What both nets are given; `seconds` is the time of each net in each measurement."""

    size: int = 32
    batch: int = 64
    tokens: int = 16
    threads: int = 2
    seconds: float = 20.0


class Contender:
    """A net with the one batch it is measured on; subclasses call the net and sample as its users do."""

    name: str

    def __init__(self, net: nn.Module, s: Settings) -> None:
        draw = torch.Generator().manual_seed(0)
        self.net = net.train()
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
        self.x_t, self.target = (torch.randn(s.batch, 3, s.size, s.size, generator=draw) for _ in range(2))
        self.t = torch.rand(s.batch, generator=draw)
        self.text = torch.randn(max(s.batch, SAMPLE_BATCH), s.tokens, TEXT_DIM, generator=draw)
        self.mask = torch.ones(self.text.shape[:2], dtype=torch.bool)
        self.x_T = torch.randn(SAMPLE_BATCH, 3, s.size, s.size, generator=draw)

    def predict(self) -> Tensor:
        """The net's output for the training batch, (B, 3, S, S)."""
        raise NotImplementedError

    def sample(self) -> Tensor:
        """`SAMPLE_BATCH` images after `SAMPLE_STEPS` DDIM steps, conditional and unconditional pass as one batch."""
        raise NotImplementedError

    def train_step(self, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        """Forward, mean squared error, backward, optimiser."""
        with precision():
            out = self.predict()
        F.mse_loss(out.float(), self.target).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def sample_once(self, precision: Callable[[], AbstractContextManager[Any]]) -> None:
        """`sample` under one autocast context, so that weights are cast once."""
        with precision():
            self.sample()


class TextUNet(nn.Module):
    """Our U-Net and the conditioner of its text as one module, so that its parameters and its work count, as the peer's do.

    Args:
        text: settings of the conditioner. net: settings of the U-Net.
    """

    def __init__(self, text: dict[str, Any], net: dict[str, Any]) -> None:
        super().__init__()
        self.text, self.net = TextConditioner(**text), UNet(**net)

    def forward(self, x: Tensor, log_snr: Tensor, *, text: Tensor, text_mask: Tensor) -> Tensor:
        return self.net(x, log_snr, **self.text({"text": text, "mask": text_mask}))


class Ours(Contender):
    name = "ours"

    def predict(self) -> Tensor:
        n = len(self.x_t)
        return self.net(self.x_t, 40 * self.t - 20, text=self.text[:n], text_mask=self.mask[:n])

    def sample(self) -> Tensor:
        schedule = CosineSchedule()
        cond = {"text": self.text[:SAMPLE_BATCH], "text_mask": self.mask[:SAMPLE_BATCH]}
        uncond = cond | {"text": 0 * cond["text"]}
        denoise = guided(Denoiser(self.net, schedule, "v"), cond, uncond, GUIDANCE_SCALE)
        return ddim(denoise, schedule, self.x_T, num_steps=SAMPLE_STEPS)


class Diffusers(Contender):
    name = "diffusers"

    def __init__(self, net: nn.Module, s: Settings) -> None:
        super().__init__(net, s)
        self.timesteps = (self.t * 1000).long()
        self.use("channels_last")

    def use(self, layout: str) -> None:
        """Moves the net and its inputs to a memory layout."""
        self.net.to(memory_format=LAYOUTS[layout])
        self.x_t, self.x_T = (x.contiguous(memory_format=LAYOUTS[layout]) for x in (self.x_t, self.x_T))

    def predict(self) -> Tensor:
        return self.net(self.x_t, self.timesteps, self.text[: len(self.x_t)], return_dict=False)[0]

    def sample(self) -> Tensor:
        # As StableDiffusionPipeline does: both halves in one batch, then one step of the scheduler.
        scheduler = require("diffusers", "diffusers>=0.36").DDIMScheduler()
        scheduler.set_timesteps(SAMPLE_STEPS)
        cond, x = self.text[:SAMPLE_BATCH], self.x_T
        text = torch.cat([0 * cond, cond])
        for t in scheduler.timesteps:
            uncond, cond = self.net(torch.cat([x, x]), t, text, return_dict=False)[0].chunk(2)
            x = scheduler.step(uncond + GUIDANCE_SCALE * (cond - uncond), t, x, return_dict=False)[0]
        return x


def diffusers_unet(size: int) -> nn.Module:
    """The net of the comparison: convolutions at full resolution, text attention below, everything else at default."""
    return require("diffusers", "diffusers>=0.36").UNet2DConditionModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_DIM,
        norm_num_groups=32,
    )


def our_unet(target: int, size: int) -> TextUNet:
    """The base stage of conf/model/imagen.yaml with widths and feed-forward layers scaled to `target` parameters.

    Raises:
        ValueError: when nothing comes within 3 %.
    """
    stage = OmegaConf.to_container(compose("train", ["model=imagen"]).model.stages.base, resolve=True)
    text, given = ({k: v for k, v in node.items() if k != "_target_"} for node in (stage["conditioners"]["text"], stage["net"]))
    text, given = text | {"text_dim": TEXT_DIM}, given | {"image_size": size}
    dims = [given["dim"] * m for m in given["dim_mults"]]
    best, difference = given, float("inf")
    # In steps of 32 channels, so that attention has whole heads.
    scaled = {tuple(max(32, 32 * round(d * s / 12 / 32)) for d in dims) for s in range(6, 25)}
    for widths, ff_mult in itertools.product(sorted(scaled), (4, 3.5, 3, 2.5, 2)):
        tried = given | {"dim": widths[0], "dim_mults": [w / widths[0] for w in widths], "ff_mult": ff_mult}
        with torch.device("meta"):
            found = abs(parameters(TextUNet(text, tried)) / target - 1)
        if found < difference:
            best, difference = tried, found
    if difference > MAX_DIFFERENCE:
        raise ValueError(f"no width of conf/model/imagen.yaml's base net comes within 3 % of {target:,} parameters")
    return TextUNet(text, best)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def gflop_per_image(contender: Contender) -> float:
    """10^9 floating-point operations (two per multiply-add) of one forward pass, per image."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        contender.predict()
    return counter.get_total_flops() / len(contender.x_t) / 1e9


def alternate(a: Callable[[], None], b: Callable[[], None], seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of each call of a, b, a, b, … until each has had `seconds` and `MIN_TURNS` calls, after one warm-up each.

    Whatever else the machine does then slows both alike.
    """
    times: tuple[list[float], list[float]] = ([], [])
    a(), b()
    while len(times[0]) < MIN_TURNS or min(map(sum, times)) < seconds:
        for call, record in zip((a, b), times):
            began = time.perf_counter()
            call()
            record.append(time.perf_counter() - began)
    return times


def compare(ours: Ours, peer: Diffusers, action: str, precision: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Median seconds of a call of each, and how many times faster ours is (quartiles over the turns as range).

    diffusers runs in whichever memory layout is faster for it, tried first for a quarter of the time.
    """

    calls = [lambda c=c: getattr(c, action)(precision) for c in (ours, peer)]
    tried = {}
    for layout in LAYOUTS:
        peer.use(layout)
        times = alternate(*calls, seconds / 8)
        tried[layout] = statistics.median(times[1]) / statistics.median(times[0])
    layout = min(tried, key=tried.get)
    peer.use(layout)
    times = alternate(*calls, seconds)
    low, _, high = statistics.quantiles([theirs / own for own, theirs in zip(*times)], n=4)
    own, theirs = map(statistics.median, times)
    return {
        "sec": {"ours": own, "diffusers": theirs},
        "ratio": theirs / own,
        "ratio_quartiles": [low, high],
        "turns": len(times[0]),
        "diffusers_layout": layout,
    }


def benchmark(s: Settings) -> dict[str, Any]:
    """Everything measured, as what goes into the JSON."""
    torch.set_num_threads(s.threads)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "benchmark": "speed_unet",
        "settings": asdict(s) | {"sample_batch": SAMPLE_BATCH, "sample_steps": SAMPLE_STEPS, "text_dim": TEXT_DIM},
        "machine": machine(s.threads),
        **provenance("torch", "diffusers"),
    }
    theirs = diffusers_unet(s.size)
    peer, ours = Diffusers(theirs, s), Ours(our_unet(parameters(theirs), s.size), s)
    result["nets"] = {
        c.name: {"parameters": parameters(c.net), "gflop_per_image": gflop_per_image(c)} for c in (ours, peer)
    }
    precisions = {"float32": nullcontext, "bf16": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
    result["results"] = {}
    for name, precision in precisions.items():
        train = compare(ours, peer, "train_step", precision, s.seconds)
        train["images_per_sec"] = {k: s.batch / v for k, v in train["sec"].items()}
        sampling = compare(ours, peer, "sample_once", precision, s.seconds)
        sampling["sec_per_image"] = {k: v / SAMPLE_BATCH for k, v in sampling["sec"].items()}
        result["results"][name] = {"train": train, "sample": sampling}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    rows = []
    for precision, measured in result["results"].items():
        for action, unit in (("train", "images_per_sec"), ("sample", "sec_per_image")):
            m = measured[action]
            label = f"{'training images a second' if action == 'train' else 'sampling seconds an image'}, {precision}"
            low, high = m["ratio_quartiles"]
            cells = [f"{m[unit][name]:.3g}" for name in ("ours", "diffusers")]
            rows.append([label, *cells, f"{m['ratio']:.2f}x ({low:.2f}–{high:.2f})"])
    for key, label in (("parameters", "parameters, millions"), ("gflop_per_image", "forward GFLOP an image")):
        values = [result["nets"][name][key] / (1e6 if key == "parameters" else 1) for name in ("ours", "diffusers")]
        rows.append([label, *(f"{v:.3g}" for v in values), f"{values[1] / values[0]:.2f}"])
    return markdown_table(["", "ours", "diffusers", "ours is faster by"], rows)


def main() -> None:
    options = {
        "size": "side of the images in pixels",
        "batch": "training images a step",
        "tokens": "text tokens an image",
        "threads": "CPU threads",
        "seconds": "of each net in each of the four measurements",
    }
    parser = arguments("speed_unet", __doc__, Settings, options)
    args = vars(parser.parse_args())
    out = args.pop("out")
    result = benchmark(Settings(**args))
    publish(out, result, table(result))


if __name__ == "__main__":
    run(main)
