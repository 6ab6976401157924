"""Random numbers for whole batches at once, each row a function of its own seed alone."""

from __future__ import annotations

import numpy as np

from datamodules.sampler import stable_hash

_STEP = np.uint64(0x9E3779B97F4A7C15)


def keyed_bits(seeds: np.ndarray, tag: str, count: int = 1) -> np.ndarray:
    """Random uint64 (B, count); row i depends on seeds[i] and the tag only, on every machine the same.

    Args: seeds (B,) uint64; tag: what the numbers are for.
    """
    return streams(_mix(seeds.astype(np.uint64) ^ np.uint64(stable_hash(tag))), count)


def streams(starts: np.ndarray, count: int) -> np.ndarray:
    """The first `count` outputs (B, count) of the generators SplitMix64 that start at (B,) uint64.

    Source: Steele, Lea and Flood 2014 (SplitMix), figure 15
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        return _mix(starts[:, None] + _STEP * np.arange(1, count + 1, dtype=np.uint64))


def bernoulli_u8(image_u8: np.ndarray, seeds: np.ndarray, tag: str) -> np.ndarray:
    """Each byte x of (B, ...) becomes 255 with probability x / 255, else 0; row i drawn from seeds[i]."""
    flat = image_u8.reshape(len(image_u8), -1).astype(np.uint64)
    uniform = keyed_bits(seeds, tag, flat.shape[1]) >> np.uint64(40)  # 24 bits
    drawn = uniform * np.uint64(255) < flat << np.uint64(24)
    return (drawn.astype(np.uint8) * np.uint8(255)).reshape(image_u8.shape)


def _mix(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
