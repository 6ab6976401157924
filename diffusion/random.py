"""Random numbers keyed by a sample's own seed: batch size, worker and device never change what a sample draws."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None


def keyed_generators(seeds: Sequence[int] | Tensor, *tags: str | int) -> list[torch.Generator]:
    """One CPU generator per seed, started from a hash of (seed, tags); equal keys give equal streams on every machine.

    Args: seeds (B,) integers; tags: what the numbers are for, e.g. `"eps", "base"`.
    Source: RFC 7693 (BLAKE2b)
    """
    values = seeds.tolist() if isinstance(seeds, Tensor) else seeds
    generators = []
    for seed in values:
        digest = blake2b(repr((int(seed), *tags)).encode(), digest_size=8).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1))
    return generators


def randn(
    shape: Sequence[int],
    generator: Generators = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal tensor of `shape`; a list of shape[0] generators draws each row from its own generator.

    Raises: ValueError if the list does not hold one generator per row.
    """
    if generator is None:
        return torch.randn(*shape, device=device, dtype=dtype)
    if isinstance(generator, torch.Generator):
        # Drawn where the generator lives: a CPU generator gives the same numbers whatever the device of the model.
        return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype).to(device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one generator per sample")
    rows = [torch.randn(*shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack(rows).to(device)


def keyed_randn(
    seeds: Sequence[int] | Tensor,
    shape_per_sample: Sequence[int],
    *tags: str | int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal (B, *shape_per_sample) whose row i is a function of seeds[i] and the tags only."""
    return randn((len(seeds), *shape_per_sample), keyed_generators(seeds, *tags), device, dtype)


def keyed_rand(
    seeds: Sequence[int] | Tensor,
    *tags: str | int,
    shape: Sequence[int] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform float32 numbers (B, *shape) in [0, 1), row i a function of seeds[i] and the tags only."""
    return torch.stack([torch.rand(tuple(shape), generator=g) for g in keyed_generators(seeds, *tags)]).to(device)
