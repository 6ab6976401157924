"""What is counted of a sampling run: by hand for nets whose operations are known."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from evaluation.drawing_cost import count


class Two(nn.Module):
    """A base net asked twice a step with guidance, a small net above it, and a scale that is no network."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
        self.above = nn.Linear(100, 50, bias=False)
        self.scale = nn.Linear(1, 1)

    def sample(self, steps: int) -> torch.Tensor:
        x = torch.zeros(1, 100)
        for _ in range(steps):
            x = self.base(torch.cat([x, x]))[:1] + self.scale(torch.zeros(1, 1))
        return self.above(x)


def test_networks_are_counted_by_image_and_operations_by_hand() -> None:
    module = Two()
    found = count(module, lambda: module.sample(5))
    assert found["networks"] == {"base": 10, "above": 1} and found["nfe"] == 11
    assert found["flops_per_image"] == 5 * 2 * 2 * (2 * 100 * 100) + 2 * 100 * 50 + 5 * 2
    assert count(module, lambda: module.sample(10))["nfe"] == 21  # and nothing of the first count is left


def test_attention_counts_on_this_machine() -> None:
    q = torch.zeros(1, 2, 16, 8)
    module = nn.Linear(1, 1)
    found = count(module, lambda: F.scaled_dot_product_attention(q, q, q))
    assert found["flops_per_image"] == 2 * 2 * (2 * 16 * 16 * 8)


def test_an_error_leaves_no_hooks() -> None:
    module = Two()
    try:
        count(module, lambda: module.above(torch.zeros(1, 3)))
    except RuntimeError:
        pass
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_what_cannot_be_counted_is_unknown() -> None:
    assert count(nn.Identity(), lambda: torch.zeros(1)) == {"flops_per_image": None, "nfe": None, "networks": {}}


def test_parts_of_an_image_in_one_batch_are_one_evaluation() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    assert count(module, lambda: module[0](torch.zeros(64, 4)))["nfe"] == 1  # 64 tokens of one image
