"""Time from images to Fréchet distance, KID and PRDC, ours and torch-fidelity's with the same network, in one process.

python -m benchmarks.speed_evaluation [--images 10000 --size 32 --threads 2 --turns 3 --out FILE]

Equal for both: images, EfficientNet-Lite0 with its resize rule and memory layout, k = 5, threads. torch-fidelity has
precision and recall (no density, no coverage) and KID over 100 random subsets of 1,000; ours all four and all pairs.
Ours is measured without its cache of features, and once more with it, which is what a second metric or run costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import arguments, machine, markdown_table, provenance, publish, require, run
from evaluation.extractors.feature_cache import FeatureCache
from evaluation.extractors.lite0 import EfficientNetLite0
from evaluation.metrics.frechet import frechet_of_features
from evaluation.metrics.kernel_distance import disjoint, mmd2, polynomial
from evaluation.metrics.precision_recall import K, prdc
from scenes.grammar import sample_spec
from scenes.render import render

NAME = "benchmark-efficientnet-lite0"
DISTINCT = 2000  # scenes that are rendered; the rest are these with a byte of noise, as dear to judge


@dataclass(frozen=True)
class Settings:
    """What both are given; `turns` is how often each runs, one after the other."""

    images: int = 10_000
    size: int = 32
    threads: int = 2
    turns: int = 3


class Images(torch.utils.data.Dataset):
    """uint8 images as torch-fidelity takes them: bare tensors."""

    def __init__(self, image_u8: Tensor) -> None:
        self.image_u8 = image_u8

    def __len__(self) -> int:
        return len(self.image_u8)

    def __getitem__(self, index: int) -> Tensor:
        return self.image_u8[index]


def scenes(n: int, size: int, seed: int) -> Tensor:
    """uint8 (n, 3, size, size)."""
    count = min(n, DISTINCT)
    drawn = [render(sample_spec(seed * DISTINCT + i, "scenes"), i, size)[0] for i in range(count)]
    base = torch.stack([torch.from_numpy(image.copy()) for image in drawn]).permute(0, 3, 1, 2)
    whole = base[torch.arange(n) % count].contiguous()
    noise = torch.randint(0, 8, whole.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return whole.clamp(0, 247) + noise


def ours(extractor: EfficientNetLite0, real: Tensor, fake: Tensor) -> dict[str, float]:
    """All our numbers from images."""
    a, b = extractor(real), extractor(fake)
    blocks = [mmd2(x, y, polynomial(a.shape[1]))[0] for x, y in disjoint(a, b)]
    shares = {name: float(answers.mean()) for name, answers in prdc(a, b).items()}
    return {"fd": frechet_of_features(a, b), "kd": sum(blocks) / len(blocks), **shares}


def register(extractor: EfficientNetLite0) -> None:
    """Makes the network known to torch-fidelity, whose registry lasts as long as the process."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    class Registered(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)

        def forward(self, image_u8: Tensor) -> tuple[Tensor]:
            return (extractor._features(extractor._net, image_u8),)

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("pool",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pool"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, Registered)


def theirs(real: Tensor, fake: Tensor) -> dict[str, float]:
    """All of torch-fidelity's from images."""
    fidelity = require("torch_fidelity", "torch-fidelity>=0.4")
    return fidelity.calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        prc=True,
        prc_neighborhood=K,
        kid_subset_size=min(1000, len(fake)),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def benchmark(s: Settings) -> dict[str, Any]:
    """Everything measured, as what goes into the JSON."""
    torch.set_num_threads(s.threads)
    result: dict[str, Any] = {
        "benchmark": "speed_evaluation",
        "settings": asdict(s),
        "machine": machine(s.threads),
        **provenance("torch", "torch-fidelity", "timm"),
    }
    real, fake = scenes(s.images, s.size, 0), scenes(s.images, s.size, 1)
    extractor = EfficientNetLite0()
    extractor.cache = FeatureCache()
    extractor(real[:1])
    register(extractor)
    theirs(real[:64], fake[:64])  # libraries are imported and buffers made
    seconds: dict[str, list[float]] = {"ours": [], "torch_fidelity": [], "ours_cached": []}
    values: dict[str, Any] = {}
    for _ in range(s.turns):
        extractor.cache = FeatureCache()
        for name, call in (
            ("ours", lambda: ours(extractor, real, fake)),
            ("ours_cached", lambda: ours(extractor, real, fake)),
            ("torch_fidelity", lambda: theirs(real, fake)),
        ):
            sec, values[name] = timed(call)
            seconds[name].append(sec)
    result["sec"] = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [own / peer for own, peer in zip(seconds["ours"], seconds["torch_fidelity"])]
    result |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)], "values": values}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    sec, values = result["sec"], result["values"]
    low, high = result["ratio_range"]
    own, peer = values["ours"], values["torch_fidelity"]
    n = f"{result['settings']['images']:,} images"
    rows = [
        [f"seconds for {n}", *(f"{sec[k]:.1f}" for k in ("ours", "torch_fidelity"))],
        ["ratio (range over turns)", f"{result['ratio']:.2f} ({low:.2f}–{high:.2f})", "1"],
        ["seconds with features in the cache", f"{sec['ours_cached']:.1f}", "-"],
        ["Fréchet distance", f"{own['fd']:.6f}", f"{peer['frechet_inception_distance']:.6f}"],
        ["KID", f"{own['kd']:.6f}", f"{peer['kernel_inception_distance_mean']:.6f}"],
        ["precision", f"{own['precision']:.4f}", f"{peer['precision']:.4f}"],
        ["recall", f"{own['recall']:.4f}", f"{peer['recall']:.4f}"],
        ["density, coverage", f"{own['density']:.4f}, {own['coverage']:.4f}", "-"],
    ]
    return markdown_table(["", "ours", "torch-fidelity"], rows)


def main() -> None:
    options = {
        "images": "images in each of the two sets",
        "size": "side of the images in pixels",
        "threads": "CPU threads",
        "turns": "times each runs",
    }
    parser = arguments("speed_evaluation", __doc__, Settings, options)
    args = vars(parser.parse_args())
    out = args.pop("out")
    result = benchmark(Settings(**args))
    publish(out, result, table(result))


if __name__ == "__main__":
    run(main)
