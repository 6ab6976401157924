"""A generator for each sample: batch size, worker and device never change what a sample draws.

`torch.Generator.manual_seed` keeps the lower 32 bits of a seed on a CPU (mt19937), so that two of 100,000 samples would
share their noise. Here a hash fills the whole state of the generator, 624 words of 32 bits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from rng.hashing import expand

Generators = torch.Generator | Sequence[torch.Generator] | None

MANY = 2**20  # numbers from which several threads draw them, some ten milliseconds of one
THREADS = min(4, os.cpu_count() or 1)  # not all: each GPU of a machine has a process of its own
WORDS = 624  # of mt19937
_PLACE = 3  # the state tensor as int64: seed, counters, position, then the words


def keyed_generators(seeds: Sequence[int] | Tensor, *tags: str | int) -> list[torch.Generator]:
    """One CPU generator per seed, started from a hash of (seed, tags); equal keys give equal streams on every machine.

    Args: seeds (B,) integers, on the CPU, where they are read; tags: what the numbers are for, e.g. `"eps", "base"`.
    Raises: TypeError for a seed or tag that is neither an integer nor a string.
    Source: FIPS 202 (SHAKE128); Matsumoto and Nishimura 1998 (mt19937)
    """
    values = seeds.tolist() if isinstance(seeds, Tensor) else seeds
    # One tensor for all states, since torch copies it. A row of a larger tensor would crash `set_state` of torch 2.14.
    state = _template().clone()
    words, as_bytes = state[_PLACE : _PLACE + WORDS], state.view(torch.uint8)
    generators = []
    for seed in values:
        drawn = bytearray(expand((seed, *tags), 4 * WORDS))
        words.copy_(torch.frombuffer(drawn, dtype=torch.int32))  # torch reads the lower half of each int64
        generators.append(torch.Generator().set_state(as_bytes))
    return generators


@cache
def _template() -> Tensor:
    """The state of a new generator as int64. Raises: RuntimeError where this torch lays a state out in another way."""
    state = torch.Generator().manual_seed(5489).get_state().view(torch.int64)
    word, expected = 5489, [5489]
    for i in range(1, WORDS):
        word = (1812433253 * (word ^ word >> 30) + i) & 0xFFFFFFFF
        expected.append(word)
    if state[_PLACE : _PLACE + WORDS].tolist() != expected:
        raise RuntimeError(f"torch {torch.__version__} keeps the state of a generator in a form that rng/ does not know")
    return state


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
        return delivered(torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype), device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one generator per sample")
    return delivered(_rows(shape, generator, is_cuda(device), dtype), device)


def _rows(shape: Sequence[int], generators: Sequence[torch.Generator], pinned: bool, dtype: torch.dtype) -> Tensor:
    """Standard normal tensor of `shape`, each row from its own generator: many numbers by several threads, each of which draws whole rows."""
    home = generators[0].device if generators else torch.device("cpu")
    drawn = torch.empty(tuple(shape), device=home, dtype=dtype, pin_memory=pinned and home.type == "cpu")

    def draw(i: int) -> None:
        with torch.inference_mode(drawn.is_inference()):  # each thread has a mode of its own
            torch.randn(tuple(shape[1:]), generator=generators[i], dtype=dtype, device=home, out=drawn[i])

    if drawn.numel() < MANY:
        for i in range(len(generators)):
            draw(i)
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(draw, range(len(generators))))
    return drawn


def is_cuda(device: torch.device | str | None) -> bool:
    """Whether a device is a GPU."""
    return device is not None and torch.device(device).type == "cuda"


def delivered(drawn: Tensor, device: torch.device | str | None) -> Tensor:
    """The numbers on a device. A copy from pinned memory to a GPU goes on beside what the GPU computes; another one would wait for it."""
    if is_cuda(device) and drawn.device.type == "cpu":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)


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
    return delivered(torch.stack([torch.rand(tuple(shape), generator=g) for g in keyed_generators(seeds, *tags)]), device)
