"""CLIP's loss equals open_clip's, in value and in gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from objectives.contrastive import clip_loss


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_equals_open_clip(batch: int) -> None:
    from open_clip.loss import ClipLoss

    draw = torch.Generator().manual_seed(batch)
    raw = torch.randn(2, batch, 16, generator=draw)
    found = []
    for loss in (clip_loss, ClipLoss()):
        leaf = raw.clone().requires_grad_()
        scale = torch.tensor(14.3, requires_grad=True)
        value = loss(*normalize(leaf, dim=-1), scale)
        value.backward()
        found.append((value.detach(), leaf.grad, scale.grad))
    for own, theirs in zip(*found):
        torch.testing.assert_close(own, theirs, rtol=1e-6, atol=1e-7)


def test_pairs_that_fit_cost_nothing_and_shuffled_ones_do() -> None:
    unit = torch.eye(8)
    assert clip_loss(unit, unit, 100.0) < 1e-6 and clip_loss(unit, unit.roll(1, 0), 100.0) > 50
