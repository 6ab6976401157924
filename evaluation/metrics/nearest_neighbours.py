"""Nearest neighbours and balls between sets of features: matrix products for speed, exact where it matters.

|x - y|² from |x|² + |y|² - 2 x·y loses what cancels: an image's distance to its own copy comes out as 0.1 instead of 0.
So products only choose candidates; distances that are reported or near a threshold are computed from differences, in
float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

TILE = 1024  # rows and columns of the distances held at once: what stays in a processor's cache is faster
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

    def tiles(self, a: str, b: str) -> Iterator[tuple[int, int, Tensor]]:
        """(i, j, squared distances (R, S)) of R of `a` from row i and S of `b` from row j, as good as float32 products.

        Of a set with itself only tiles with i <= j come: the others are their transposes.
        """
        for i in range(0, len(self.sets[a]), TILE):
            rows, squares = self.sets[a][i : i + TILE], self.squares[a][i : i + TILE, None]
            for j in range(i if a == b else 0, len(self.sets[b]), TILE):
                others = self.sets[b][j : j + TILE]
                tile = torch.addmm(self.squares[b][j : j + TILE], rows, others.T, alpha=-2)
                yield i, j, tile.add_(squares)

    def exact(self, a: str, i: Tensor, b: str, j: Tensor) -> Tensor:
        """Squared distances of pairs (P,), from differences in float64."""
        found = []
        for rows, others in zip(i.split(EXACT_PAIRS), j.split(EXACT_PAIRS)):
            difference = self.raw[a][rows].double() - self.raw[b][others].double()
            found.append(difference.square().sum(1))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def tolerance(self, a: str, b: str) -> float:
        """How far `tiles` may be from `exact`: float32 rounding of the largest inner product, generously."""
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
        candidates = Candidates(len(self.sets[a]), min(k + SPARE, there))
        for i, j, tile in self.tiles(a, b):
            if a == b and i == j:
                tile.fill_diagonal_(float("inf"))
            candidates.add(i, j, tile)
            if a == b and i != j:
                candidates.add(j, i, tile.T.contiguous())
        chosen = candidates.indices.sort(1).values  # by index, so that ties go to the first
        rows = torch.arange(len(chosen))[:, None].expand_as(chosen)
        exact = self.exact(a, rows.flatten(), b, chosen.flatten()).view_as(chosen)
        order = exact.sort(dim=1, stable=True)
        return order.values[:, :k].sqrt(), chosen.gather(1, order.indices[:, :k])

    def inside(self, a: str, b: str, radii_a: Tensor, radii_b: Tensor) -> tuple[Tensor, ...]:
        """Which pairs are within the one's ball and the other's.

        Args:
            radii_a, radii_b: radius (N,) and (M,) of the ball around each of `a` and of `b`, edges inside.
        Returns: counts, int64: per `a` the balls of `b` it is in; per `b` the `a` in its ball; per `b` the balls of `a`
            it is in.
        """
        slack = self.tolerance(a, b)
        in_b, in_a, holding = (torch.zeros(len(r), dtype=torch.long) for r in (radii_a, radii_b, radii_b))
        for i, j, tile in self.tiles(a, b):
            rows, columns = slice(i, i + len(tile)), slice(j, j + tile.shape[1])
            within_b, within_a = (
                self._within(a, b, i, j, tile, radii, slack) for radii in (radii_b[None, columns], radii_a[rows, None])
            )
            in_b[rows] += within_b.sum(1)
            holding[columns] += within_b.sum(0)
            in_a[columns] += within_a.sum(0)
        return in_b, holding, in_a

    def _within(self, a: str, b: str, i: int, j: int, tile: Tensor, radii: Tensor, slack: float) -> Tensor:
        """Which distances of a tile are at most `radii` (1, S) or (R, 1): those near the edge are computed exactly."""
        limit = radii.square().float()
        sure = tile <= limit
        rows, columns = ((tile - limit).abs_() <= slack).nonzero(as_tuple=True)
        exact = self.exact(a, rows + i, b, columns + j).sqrt()
        sure[rows, columns] = exact <= radii.expand_as(tile)[rows, columns]
        return sure


class Candidates:
    """The nearest columns of each row so far, tile by tile.

    Args:
        count: rows.
        take: how many are kept of each.
    """

    def __init__(self, count: int, take: int) -> None:
        self.take = take
        self.distances = torch.full((count, take), float("inf"))
        self.indices = torch.zeros(count, take, dtype=torch.long)

    def add(self, i: int, j: int, tile: Tensor) -> None:
        """Squared distances (R, S) of the rows from i on to the columns from j on."""
        rows = slice(i, i + len(tile))
        found = tile.topk(min(self.take, tile.shape[1]), largest=False, sorted=False)
        distances = torch.cat([self.distances[rows], found.values], 1)
        indices = torch.cat([self.indices[rows], found.indices + j], 1)
        self.distances[rows], kept = distances.topk(self.take, largest=False, sorted=False)
        self.indices[rows] = indices.gather(1, kept)
