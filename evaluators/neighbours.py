"""Nearest neighbours and balls between sets of features: matrix products for speed, exact where it matters.

|x - y|² from |x|² + |y|² - 2 x·y loses what cancels: an image's distance to its own copy comes out as 0.1 instead of 0.
So products only choose candidates; distances that are reported or near a threshold are computed from differences, in
float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 20  # distances held at once: what stays in a processor's cache is several times faster
SPARE = 4  # candidates beyond k, in case rounding changes their order
EXACT_PAIRS = 256  # pairs whose differences are taken at once


class Space:
    """Two or more sets in the same features, moved to a common centre so that less cancels.

    Args:
        sets: features (N, D) by name.
    """

    def __init__(self, **sets: Tensor) -> None:
        centre = torch.cat([features.double().mean(0, keepdim=True) for features in sets.values()]).mean(0)
        self.raw = sets
        self.sets = {name: (features.double() - centre).float() for name, features in sets.items()}
        self.squares = {name: features.square().sum(1) for name, features in self.sets.items()}

    def blocks(self, a: str, b: str) -> Iterator[tuple[int, Tensor]]:
        """(start, squared distances (R, M)) from R of `a` to all of `b`, as good as float32 products are."""
        others = self.sets[b].T
        size = min(max(BLOCK_VALUES // others.shape[1], 32), 1024)
        for start in range(0, len(self.sets[a]), size):
            block = torch.addmm(self.squares[b], self.sets[a][start : start + size], others, alpha=-2)
            yield start, block.add_(self.squares[a][start : start + size, None])

    def exact(self, a: str, i: Tensor, b: str, j: Tensor) -> Tensor:
        """Squared distances of pairs (P,), from differences in float64."""
        found = []
        for rows, others in zip(i.split(EXACT_PAIRS), j.split(EXACT_PAIRS)):
            difference = self.raw[a][rows].double() - self.raw[b][others].double()
            found.append(difference.square().sum(1))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def tolerance(self, a: str, b: str) -> float:
        """How far `blocks` may be from `exact`: float32 rounding of the largest inner product, generously."""
        largest = float(self.squares[a].max().sqrt() * self.squares[b].max().sqrt())
        return 128 * torch.finfo(torch.float32).eps * largest

    def nearest(self, a: str, b: str, k: int = 1) -> tuple[Tensor, Tensor]:
        """Distances (N, k), ascending, and indices in `b`, of the k nearest to each of `a`; in its own set not itself.

        Raises:
            ValueError: `b` has fewer than k (others).
        """
        there = len(self.sets[b]) - (a == b)
        if there < k:
            raise ValueError(f"{k} nearest neighbours among {there} images")
        take = min(k + SPARE, there)
        distances, indices = [], []
        for start, block in self.blocks(a, b):
            if a == b:
                own = torch.arange(len(block))
                block[own, own + start] = float("inf")
            chosen = block.topk(take, largest=False).indices.sort(1).values  # by index, so that ties go to the first
            rows = torch.arange(start, start + len(block))[:, None].expand_as(chosen)
            exact = self.exact(a, rows.flatten(), b, chosen.flatten()).view_as(chosen)
            order = exact.sort(dim=1, stable=True)
            distances.append(order.values[:, :k].sqrt())
            indices.append(chosen.gather(1, order.indices[:, :k]))
        return torch.cat(distances), torch.cat(indices)

    def inside(self, a: str, b: str, radii_a: Tensor, radii_b: Tensor) -> tuple[Tensor, ...]:
        """Which pairs are within the one's ball and the other's.

        Args:
            radii_a, radii_b: radius (N,) and (M,) of the ball around each of `a` and of `b`, edges inside.
        Returns: counts, int64: per `a` the balls of `b` it is in; per `b` the `a` in its ball; per `b` the balls of `a`
            it is in.
        """
        slack = self.tolerance(a, b)
        holding, in_a = (torch.zeros(len(radii_b), dtype=torch.long) for _ in range(2))
        in_b = []
        for start, block in self.blocks(a, b):
            within = []
            for radii in (radii_b[None, :], radii_a[start : start + len(block), None]):
                limit = radii.square().float()
                sure = block <= limit
                rows, columns = ((block - limit).abs_() <= slack).nonzero(as_tuple=True)
                exact = self.exact(a, rows + start, b, columns).sqrt()
                sure[rows, columns] = exact <= radii.expand_as(block)[rows, columns]
                within.append(sure)
            within_b, within_a = within
            in_b.append(within_b.sum(1))
            holding += within_b.sum(0)
            in_a += within_a.sum(0)
        return torch.cat(in_b), holding, in_a
