"""What drawing an image costs: operations, evaluations of networks, seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# Attention on a CPU, which torch 2.11 counts as nothing.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}
SMALL = 0.01  # a part with less than this share of the parameters is no network of its own


def count(module: nn.Module, sample: Callable[[], Any]) -> dict[str, Any]:
    """Operations and network evaluations of `sample()`, which draws one image, as they happen in a whole sampling run.

    Returns: `flops_per_image` (a multiply-add is two), `nfe`, the images that went through networks (guidance, which
    sends the image in with and without its condition, counts twice), and `networks`, the same by the network's name.
    What lies outside the module, as a frozen text encoder whose embeddings are cached, is not counted.
    """
    with torch.no_grad(), calls(module) as networks, FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops:
        sample()
    total = sum(networks.values())
    return {"flops_per_image": flops.get_total_flops() or None, "nfe": total or None, "networks": dict(networks)}


@contextmanager
def calls(module: nn.Module) -> Iterator[Counter[str]]:
    """Counts the images that go through the module's networks: the outermost of its parts that are called."""
    seen: Counter[str] = Counter()
    inside: list[str] = []
    everything = sum(p.numel() for p in module.parameters())

    def enter(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, args: tuple[Any, ...]) -> None:
            if not inside and sum(p.numel() for p in part.parameters()) >= SMALL * everything:
                seen[name] += _images(args)
            inside.append(name)

        return hook

    def leave(*_: Any) -> None:
        inside.pop()

    parts = [(name, part) for name, part in module.named_modules() if name]
    handles = [part.register_forward_pre_hook(enter(name)) for name, part in parts]
    handles += [part.register_forward_hook(leave, always_call=True) for _, part in parts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _images(args: tuple[Any, ...]) -> int:
    """How many copies of the one image a call holds. A batch of more than four holds parts of an image and counts once."""
    first = next((a for a in args if isinstance(a, Tensor) and a.ndim), None)
    return len(first) if first is not None and len(first) <= 4 else 1
