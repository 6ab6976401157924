"""Each loss and its gradient in closed form, and what tells the losses apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objectives.adversarial import LOSSES, accuracy, adversarial_loss

REAL, FAKE = [0.3, -1.7, 2.4, 0.9], [-0.6, 1.3, -2.2, 0.1]
NAMES = sorted(LOSSES)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# name -> per pair: (loss of D, of G, slope of D's loss by real, by fake, slope of G's by fake), written from the papers
# in probabilities, not as the code has them.
def logistic(r: float, f: float) -> tuple[float, float, float]:
    return -math.log(sigmoid(r)) - math.log(1 - sigmoid(f)), sigmoid(r) - 1, sigmoid(f)


def expected(name: str, r: float, f: float) -> tuple[float, float, float, float, float]:
    if name in ("minimax", "non_saturating"):
        d, d_real, d_fake = logistic(r, f)
        if name == "minimax":
            return d, math.log(1 - sigmoid(f)), d_real, d_fake, -sigmoid(f)
        return d, -math.log(sigmoid(f)), d_real, d_fake, sigmoid(f) - 1
    if name == "least_squares":
        return ((r - 1) ** 2 + f**2) / 2, (f - 1) ** 2 / 2, r - 1, f, f - 1
    if name == "hinge":
        return max(0, 1 - r) + max(0, 1 + f), -f, -float(r < 1), float(f > -1), -1
    if name == "wasserstein":
        return f - r, -f, -1, 1, -1
    p = sigmoid(r - f)  # that the real image is the more real one
    return -math.log(p), -math.log(1 - p), p - 1, 1 - p, -p


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.tensor(REAL, dtype=dtype, requires_grad=True), torch.tensor(FAKE, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_the_paper(name: str) -> None:
    rows = torch.tensor([expected(name, r, f) for r, f in zip(REAL, FAKE)], dtype=torch.float64)
    loss, (real, fake) = LOSSES[name], leaves()
    d, g = loss.discriminator(real, fake), loss.generator(fake, real)
    assert d.shape == g.shape == ()
    torch.testing.assert_close(torch.stack((d, g)), rows[:, :2].mean(0))
    d_real, d_fake = torch.autograd.grad(d, (real, fake))
    (g_fake,) = torch.autograd.grad(g, fake)
    torch.testing.assert_close(torch.stack((d_real, d_fake, g_fake), 1), rows[:, 2:] / len(REAL))


@pytest.mark.parametrize("name", NAMES)
def test_the_players_pull_scores_apart_and_together(name: str) -> None:
    loss, (real, fake) = LOSSES[name], leaves()
    d_real, d_fake = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    (g_fake,) = torch.autograd.grad(loss.generator(fake, real), fake)
    if name == "least_squares":  # it pulls to targets: beyond them it pulls back
        assert torch.equal(d_real.sign(), (real - 1).sign()) and torch.equal(d_fake.sign(), fake.sign())
        assert torch.equal(g_fake.sign(), (fake - 1).sign())
    else:
        assert (d_real <= 0).all() and (d_fake >= 0).all() and (g_fake < 0).all()


def test_minimax_saturates_where_the_discriminator_is_sure_and_the_others_do_not() -> None:
    slopes = {}
    for name, loss in LOSSES.items():
        fake = torch.tensor([-15.0], requires_grad=True)
        slopes[name] = torch.autograd.grad(loss.generator(fake, torch.tensor([15.0])), fake)[0].item()
    assert -1e-6 < slopes.pop("minimax") < 0
    assert all(slope < -0.99 for slope in slopes.values()), slopes


def test_only_one_loss_asks_for_real_scores_and_it_sees_differences_alone() -> None:
    real, fake = leaves()
    for name, loss in LOSSES.items():
        assert loss.relativistic == (name == "relativistic")
        shifted = loss.discriminator(real + 7, fake + 7)
        moved = not torch.isclose(shifted, loss.discriminator(real, fake))
        assert moved == (name not in ("relativistic", "wasserstein")) == (loss.boundary is not None)
        if not loss.relativistic:
            assert torch.equal(loss.generator(fake, None), loss.generator(fake, real))
    with pytest.raises(ValueError, match="no real scores"):
        LOSSES["relativistic"].generator(fake, None)
    with pytest.raises(AssertionError, match="pairs of"):  # (B,) against (B, 1) would silently give B x B pairs
        LOSSES["relativistic"].discriminator(real, fake[:, None])


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_scores_are_summed_in_full(name: str) -> None:
    loss = LOSSES[name]
    scores = torch.randn(2, 4096).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        d, g = loss.discriminator(*scores), loss.generator(scores[1], scores[0])
    assert d.dtype == g.dtype == torch.float32
    exact = scores.double()
    torch.testing.assert_close(d.double(), loss.discriminator(*exact), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(g.double(), loss.generator(exact[1], exact[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_huge_scores_stay_finite(name: str) -> None:
    loss, scores = LOSSES[name], torch.tensor([-1e6, 1e6, 1e6, -1e6], requires_grad=True)
    for value in (loss.discriminator(scores, scores.flip(0).roll(1)), loss.generator(scores, scores.flip(0))):
        assert value.isfinite() and torch.autograd.grad(value, scores)[0].isfinite().all()


def test_accuracy_uses_the_boundary_of_the_loss() -> None:
    real, fake = torch.tensor([0.4, 0.6, 3.0, -1.0]), torch.tensor([0.2, -0.4, 0.7, -3.0])
    found = {name: tuple(x.item() for x in accuracy(loss, real, fake)) for name, loss in LOSSES.items()}
    assert found["hinge"] == found["minimax"] == found["non_saturating"] == (0.75, 0.5)
    assert found["least_squares"] == (0.5, 0.75)  # at 0.5
    assert found["wasserstein"] == found["relativistic"] == (0.75, 0.5)  # at 0.0625, between the means
    moved = accuracy(LOSSES["wasserstein"], real + 50, fake + 50)
    assert tuple(x.item() for x in moved) == (0.75, 0.5)


def test_an_unknown_loss_is_named() -> None:
    assert adversarial_loss("hinge") is LOSSES["hinge"]
    with pytest.raises(ValueError, match=r"^model.loss='hing': choose one of minimax, non_saturating, .*relativistic$"):
        adversarial_loss("hing")
