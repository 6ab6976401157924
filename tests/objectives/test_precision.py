from __future__ import annotations

import pytest
import torch

from objectives.precision import full_precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.bool])
def test_everything_but_float64_becomes_float32(dtype: torch.dtype) -> None:
    assert full_precision(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_float64_stays_and_nothing_is_copied_without_need() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert full_precision(x) is x


def test_gradients_flow_back_in_the_precision_they_came_from() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    (3 * full_precision(x)).sum().backward()
    assert x.grad.dtype == torch.bfloat16 and x.grad.tolist() == [3, 3]
