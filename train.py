"""Trains any model: python train.py model=imagen; python train.py resume=runs/latest; python train.py --help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.cli import launch


def main(overrides: Sequence[str]) -> dict[str, Any]:
    """Trains as the overrides say and returns the newest value of every metric."""
    from runtime.fit import fit  # --help does not wait for torch
    from runtime.resume import configure

    return fit(*configure(overrides))


if __name__ == "__main__":
    launch(main, "train")
