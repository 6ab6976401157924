"""95 % intervals of means over images."""

from __future__ import annotations

from torch import Tensor

from scenes.scoring import wilson


def interval(values: Tensor, share: bool = False) -> tuple[float, float]:
    """95 % interval of the mean of values (N,): Wilson's for shares, else mean ± 1.96 standard errors."""
    n, values = len(values), values.double()
    if share:
        return wilson(float(values.sum()), n)
    half = 1.96 * float(values.std()) / n**0.5
    return float(values.mean()) - half, float(values.mean()) + half


def means(columns: dict[str, Tensor]) -> dict[str, float]:
    """Mean, count and (from two images on) 95 % interval of each column (N,), under `m`, `m_n`, `m_low`, `m_high`."""
    values: dict[str, float] = {}
    for name, column in columns.items():
        values |= {name: float(column.double().mean()), f"{name}_n": len(column)}
        if len(column) > 1:
            values[f"{name}_low"], values[f"{name}_high"] = interval(column)
    return values
