"""Contrastive losses equal open_clip's, in value and in gradient; equal captions are no enemies."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from objectives.contrastive import clip_loss, siglip_loss


def raw(batch: int) -> torch.Tensor:
    return torch.randn(2, batch, 16, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_equals_open_clip(batch: int) -> None:
    from open_clip.loss import ClipLoss

    found = []
    for loss in (clip_loss, ClipLoss(), lambda *x: clip_loss(*x, positive=torch.eye(batch, dtype=torch.bool))):
        leaf = raw(batch).requires_grad_()
        scale = torch.tensor(14.3, requires_grad=True)
        value = loss(*normalize(leaf, dim=-1), scale)
        value.backward()
        found.append((value.detach(), leaf.grad, scale.grad))
    for own, theirs, with_mask in zip(*found):
        torch.testing.assert_close(own, theirs, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(with_mask, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_siglip_equals_open_clip(batch: int) -> None:
    from open_clip.loss import SigLipLoss

    found = []
    for loss in (siglip_loss, SigLipLoss()):
        leaf = raw(batch).requires_grad_()
        scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
        value = loss(*normalize(leaf, dim=-1), scale, bias)
        value.backward()
        found.append((value.detach(), leaf.grad, scale.grad, bias.grad))
    for own, theirs in zip(*found):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6)


def test_pairs_that_fit_cost_nothing_and_shuffled_ones_do() -> None:
    unit = torch.eye(8)
    assert clip_loss(unit, unit, 100.0) < 1e-6 and clip_loss(unit, unit.roll(1, 0), 100.0) > 50


def test_without_knowledge_it_is_the_logarithm_of_the_batch() -> None:
    same = torch.ones(32, 4) / 2
    assert clip_loss(same, same, 14.3).item() == pytest.approx(math.log(32), abs=1e-6)


def test_equal_captions_share_the_target() -> None:
    """Images 0 and 1 have one caption: the least loss is ln 2 for them, and is reached where both are as near."""
    image = torch.eye(4)[[0, 0, 2, 3]]
    fits = torch.eye(4, dtype=torch.bool)
    fits[0, 1] = fits[1, 0] = True
    least = clip_loss(image, image, 100.0, fits)
    assert least.item() == pytest.approx(math.log(2) / 2, abs=1e-5)
    apart = image.clone().requires_grad_()
    value, gradient = clip_loss(apart, image, 100.0, fits), None
    (gradient,) = torch.autograd.grad(value, apart)
    assert gradient.abs().max() < 1e-4, "nothing pushes the two apart"
    (pushed,) = torch.autograd.grad(clip_loss(apart, torch.eye(4)[[0, 0, 2, 3]] + 0.01 * torch.randn(4, 4), 100.0), apart)
    assert pushed.abs().max() > 1e-2
    assert siglip_loss(image, image, 100.0, -50.0, fits) < 1e-6 < siglip_loss(image, image, 100.0, -50.0)


def test_the_target_of_captions_is_taken_by_columns() -> None:
    """A mask that is not symmetric: image 0 fits captions 0 and 1, image 1 fits caption 1 alone."""
    image, text = normalize(raw(2), dim=-1)
    fits = torch.tensor([[True, True], [False, True]])
    rows, columns = (10 * image @ text.T).log_softmax(1), (10 * image @ text.T).log_softmax(0)
    of_images = -(rows[0].mean() + rows[1, 1]) / 2
    of_texts = -(columns[0, 0] + columns[:, 1].mean()) / 2
    torch.testing.assert_close(clip_loss(image, text, 10.0, fits), (of_images + of_texts) / 2)
