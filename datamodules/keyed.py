"""Random numbers for whole batches at once, as numpy arrays; each row is a function of its own seed alone."""

from __future__ import annotations

import numpy as np
import torch

from rng import splitmix
from rng.hashing import stable_hash


def keyed_bits(seeds: np.ndarray, tag: str, count: int = 1) -> np.ndarray:
    """Random uint64 (B, count); row i depends on seeds[i] and the tag only, on every machine the same.

    Args: seeds (B,) uint64; tag: what the numbers are for.
    """
    starts = splitmix.mix(_words(seeds.astype(np.uint64) ^ np.uint64(stable_hash(tag))))
    return _unsigned(splitmix.streams(starts, count))


def streams(starts: np.ndarray, count: int) -> np.ndarray:
    """The first `count` outputs (B, count) of the generators SplitMix64 that start at (B,) uint64."""
    return _unsigned(splitmix.streams(_words(starts), count))


def bernoulli_u8(image_u8: np.ndarray, seeds: np.ndarray, tag: str) -> np.ndarray:
    """Each byte x of (B, ...) becomes 255 with probability x / 255, else 0; row i drawn from seeds[i]."""
    flat = image_u8.reshape(len(image_u8), -1).astype(np.uint64)
    uniform = keyed_bits(seeds, tag, flat.shape[1]) >> np.uint64(40)  # 24 bits
    drawn = uniform * np.uint64(255) < flat << np.uint64(24)
    return (drawn.astype(np.uint8) * np.uint8(255)).reshape(image_u8.shape)


def _words(unsigned: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(unsigned.view(np.int64))


def _unsigned(words: torch.Tensor) -> np.ndarray:
    return words.numpy().view(np.uint64)
