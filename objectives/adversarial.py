"""Losses of the two players of a generative adversarial network, by name: functions of the discriminator's scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus

from objectives.precision import full_precision


class AdversarialLoss(NamedTuple):
    """What each player minimises: functions of raw scores (B,), without a sigmoid, that give float32 scalars.

    Attributes:
        discriminator: (real, fake) scores -> its loss.
        generator: (fake, real) scores -> its loss; real may be None unless `relativistic`.
        relativistic: whether the generator's step needs the scores of real images.
        boundary: the score above which the discriminator says "real"; None where only differences of scores mean
            something.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    relativistic: bool = False
    boundary: float | None = 0.0


def logistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), D = sigmoid(score): the cross-entropy of real against fake.

    Source: Goodfellow et al. 2014, eq. 1
    """
    return softplus(-full_precision(real)).mean() + softplus(full_precision(fake)).mean()


def minimax_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """E log(1 - D(G(z))), the other side of the discriminator's own game.

    It saturates. Its derivative by a score s is -sigmoid(s) = -D(G(z)). Where the discriminator is sure that an image is
    fake, D(G(z)) is near 0, so the worst images change least. The derivative of the non-saturating loss is
    -sigmoid(-s) = -(1 - D(G(z))), near -1 there. Both have the same fixed point.

    Source: Goodfellow et al. 2014, eq. 1 and section 3
    """
    return -softplus(full_precision(fake)).mean()


def non_saturating_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-E log D(G(z)); the gradient is large where the discriminator is sure that an image is fake.

    Source: Goodfellow et al. 2014, section 3
    """
    return softplus(-full_precision(fake)).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2: real is 1, fake is 0.

    Source: Mao et al. 2017 (LSGAN), eq. 9
    """
    return 0.5 * (full_precision(real) - 1).square().mean() + 0.5 * full_precision(fake).square().mean()


def least_squares_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """E (D(G(z)) - 1)^2 / 2.

    Source: Mao et al. 2017 (LSGAN), eq. 9
    """
    return 0.5 * (full_precision(fake) - 1).square().mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))): scores beyond the margins -1 and 1 have no gradient.

    Source: Lim and Ye 2017; Miyato et al. 2018 (SNGAN), eq. 16
    """
    return relu(1 - full_precision(real)).mean() + relu(1 + full_precision(fake)).mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E D(G(z)) - E D(x): for the best D of slope at most 1, minus the earth mover's distance. A penalty bounds the slope.

    Source: Arjovsky et al. 2017; Gulrajani et al. 2017, eq. 3
    """
    return full_precision(fake).mean() - full_precision(real).mean()


def critic_generator(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-E D(G(z)), the generator's side of both the Wasserstein and the hinge game.

    Source: Arjovsky et al. 2017; Miyato et al. 2018 (SNGAN), eq. 17
    """
    return -full_precision(fake).mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-(D(x) - D(G(z)))) over pairs: each real image should score above its fake.

    Source: Jolicoeur-Martineau 2018; Huang et al. 2024 (R3GAN), eq. 2
    """
    return softplus(-paired_difference(real, fake)).mean()


def relativistic_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """E softplus(-(D(G(z)) - D(x))) over pairs: each fake should score above its real image.

    Raises: ValueError without the scores of real images.
    Source: Jolicoeur-Martineau 2018; Huang et al. 2024 (R3GAN), eq. 2
    """
    if real is None:
        raise ValueError("the relativistic generator's loss has no real scores (None): give those of real images too")
    return softplus(-paired_difference(fake, real)).mean()


LOSSES: dict[str, AdversarialLoss] = {
    "minimax": AdversarialLoss(logistic_discriminator, minimax_generator),
    "non_saturating": AdversarialLoss(logistic_discriminator, non_saturating_generator),
    "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator, boundary=0.5),
    "hinge": AdversarialLoss(hinge_discriminator, critic_generator),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, critic_generator, boundary=None),
    "relativistic": AdversarialLoss(relativistic_discriminator, relativistic_generator, True, boundary=None),
}


def adversarial_loss(name: str) -> AdversarialLoss:
    """The entry of LOSSES.

    Raises: ValueError for another name.
    """
    if name not in LOSSES:
        raise ValueError(f"model.loss={name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


def accuracy(loss: AdversarialLoss, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of real and of fake scores (B,) that fall on their side of the boundary, two scalars in [0, 1].

    Where a loss has no boundary, the midpoint of the two means is used. Shares of 0.5 mean that D cannot tell the two apart.
    """
    real, fake = full_precision(real.detach()), full_precision(fake.detach())
    boundary = 0.5 * (real.mean() + fake.mean()) if loss.boundary is None else loss.boundary
    return (real > boundary).float().mean(), (fake < boundary).float().mean()


def paired_difference(first: Tensor, second: Tensor) -> Tensor:
    """first - second in full precision, row by row."""
    assert first.shape == second.shape, f"pairs of {tuple(first.shape)} and {tuple(second.shape)} scores"
    return full_precision(first) - full_precision(second)
