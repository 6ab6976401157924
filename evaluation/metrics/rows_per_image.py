"""Values per image under the image's index: how batches and processes are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Rows:
    """Columns of values, one row per image; reading a column gives index order, whatever order the rows came in.

    A column holds tensors (float features, scores) or plain values (dicts, strings). An index that comes twice is
    refused: a sampler that pads its last batch counts images twice, and every mean over them is wrong.
    """

    def __init__(self) -> None:
        self._indices: list[int] = []
        self._seen: set[int] = set()
        self._columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._indices)

    def next(self, count: int) -> range:
        """The `count` indices that follow on, for callers that number nothing."""
        start = max(self._seen, default=-1) + 1
        return range(start, start + count)

    def add(self, indices: Sequence[int], **columns: Tensor | Sequence[Any]) -> None:
        """Adds rows; every column has one value per index, and every call the same columns.

        Raises:
            ValueError: a column of another length, other columns than before, or an index seen before.
        """
        indices = [int(i) for i in indices]
        wrong = {name: len(column) for name, column in columns.items() if len(column) != len(indices)}
        if wrong:
            raise ValueError(f"{len(indices)} images, but {', '.join(f'{n} {name}' for name, n in wrong.items())}")
        if self._indices and set(columns) != set(self._columns):
            raise ValueError(f"columns {sorted(columns)}, but earlier rows have {sorted(self._columns)}")
        fresh = set(indices)
        if len(fresh) < len(indices) or fresh & self._seen:
            twice = sorted(fresh & self._seen or {i for i in indices if indices.count(i) > 1})
            raise ValueError(f"image {twice[0]} came twice ({len(twice)} such): a padded or overlapping split")
        self._indices += indices
        self._seen |= fresh
        for name, column in columns.items():
            kept = column.detach().cpu() if isinstance(column, Tensor) else list(column)
            self._columns.setdefault(name, []).append(kept)

    @staticmethod
    def merged(parts: Sequence[Rows]) -> Rows:
        """The rows of several processes as one; raises ValueError as `add` does. Parts without rows are skipped."""
        whole = Rows()
        for part in parts:
            if len(part):
                columns = {name: part._joined(name) for name in part._columns}
                whole.add(part._indices, **columns)
        return whole

    @property
    def indices(self) -> list[int]:
        """The indices that were added, ascending: the row order of every column."""
        return sorted(self._indices)

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self._columns)

    def column(self, name: str) -> Any:
        """A column in index order: a tensor (N, ...), or a list of N for plain values."""
        values = self._joined(name)
        order = sorted(range(len(self._indices)), key=self._indices.__getitem__)
        if isinstance(values, list):
            return [values[i] for i in order]
        return values if order == list(range(len(order))) else values[torch.tensor(order)]

    def _joined(self, name: str) -> Any:
        if name not in self._columns:
            raise KeyError(f"no column {name!r}: there are {', '.join(self._columns) or 'none'}")
        parts = self._columns[name]
        if isinstance(parts[0], Tensor):
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        return [value for part in parts for value in part]
