"""Connected components of a mask, by joining the runs of neighbouring rows."""

from __future__ import annotations

import numpy as np


def label(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 4-connected components of a bool (H, W) mask: int64 (H, W) with 0 outside, and their number."""
    h, w = mask.shape
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # (H, W + 1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    parent = list(range(len(rows)))
    first = np.searchsorted(rows, np.arange(h + 1)).tolist()  # the runs of row y are first[y] to first[y + 1]
    begin, end = starts.tolist(), ends.tolist()
    for y in range(1, h):
        i, j = first[y - 1], first[y]
        while i < first[y] and j < first[y + 1]:
            if begin[i] < end[j] and begin[j] < end[i]:
                a, b = _root(parent, i), _root(parent, j)
                parent[max(a, b)] = min(a, b)
            if end[i] < end[j]:
                i += 1
            else:
                j += 1
    roots = np.array([_root(parent, i) for i in range(len(parent))], dtype=np.int64)
    unique, numbers = np.unique(roots, return_inverse=True)
    labels = np.zeros((h, w), dtype=np.int64)
    labels[mask] = np.repeat(numbers + 1, ends - starts)  # runs are in the order of the mask's pixels
    return labels, len(unique)


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
