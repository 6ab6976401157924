"""Whether this CPU is faster in bfloat16 than in float32, and in which of them images are drawn."""

from __future__ import annotations

import functools
import time

import torch
from omegaconf import DictConfig

FLAGS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
MARGIN = 0.8  # of float32's time: a machine near the tie says the same every time
SIDE, TRIES = 512, 5


@functools.cache
def cpu_prefers_bf16() -> bool:
    """Whether products in bfloat16 take clearly less time here than in float32: measured.

    Flags alone do not tell: some CPUs with AVX512-BF16 and no AMX are slower in bfloat16. Without either nothing is measured.
    """
    if not any(getattr(torch.cpu, name, bool)() for name in FLAGS):
        return False
    return product_sec(torch.bfloat16) < MARGIN * product_sec(torch.float32)


def product_sec(dtype: torch.dtype) -> float:
    """Seconds of a product of two square matrices: the least of a few tries, after one that does not count."""
    x, spent = torch.ones(SIDE, SIDE, dtype=dtype), []
    for _ in range(TRIES + 1):
        began = time.perf_counter()
        torch.mm(x, x)
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def sampling_precision(choice: str, config: DictConfig, device: str) -> str:
    """The chosen precision; `auto` is bf16 where the model was trained in it and this machine is quick at it, else float32."""
    if choice != "auto":
        return choice
    trainer = config.get("trainer")
    trained = trainer and (trainer.get("precision") or "bf16-mixed")  # null trains in bf16 wherever that is quick
    quick = torch.cuda.is_bf16_supported() if device.startswith("cuda") else cpu_prefers_bf16()
    return "bf16" if trained and str(trained).startswith("bf16") and quick else "float32"
