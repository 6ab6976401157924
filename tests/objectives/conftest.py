from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Statistical tests draw the same numbers every time."""
    torch.manual_seed(0)
