"""Settings of a GAN that cannot be: out of range, penalties beside batch norm, a Wasserstein loss without a bound."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_modules.gan_checks import check_arguments, check_layers
from networks.gan import DCGANDiscriminator, MLPDiscriminator


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, float("nan")])
def test_counts_are_whole_numbers_from_one_on(value: Any) -> None:
    check_arguments({"critic_steps": 1}, {})
    with pytest.raises(ValueError, match=r"^model\.critic_steps=.*: a whole number of at least 1$"):
        check_arguments({"critic_steps": value}, {})


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan")])
def test_weights_are_finite_numbers_from_zero_on(value: float) -> None:
    check_arguments({}, {"r1": 0, "r2": 10.5})
    with pytest.raises(ValueError, match=r"^model\.r1=.*: a number of at least 0$"):
        check_arguments({}, {"r1": value})


def test_penalties_want_a_score_of_each_image_by_itself() -> None:
    mixing, apart = DCGANDiscriminator(8, 1, dims=(8, 8)), DCGANDiscriminator(8, 1, dims=(8, 8), norm="layer")
    check_layers(mixing, {}, "hinge")
    check_layers(apart, {"r1": 1.0}, "hinge")
    with pytest.raises(ValueError, match=r"^model\.r1 needs a score for each image by itself.*norm=layer$"):
        check_layers(mixing, {"r1": 1.0}, "hinge")


def test_a_wasserstein_loss_wants_a_bound_wherever_it_is() -> None:
    free = MLPDiscriminator(4, 1, hidden=(8,))
    with pytest.raises(ValueError, match=r"^model\.loss=wasserstein needs a bound"):
        check_layers(free, {}, "wasserstein")
    check_layers(free, {"gradient_penalty": 10.0}, "wasserstein")
    check_layers(free, {}, "hinge")
    inner = MLPDiscriminator(4, 1, hidden=(8,))
    spectral_norm(next(layer for layer in inner.body if isinstance(layer, nn.Linear)))
    check_layers(inner, {}, "wasserstein")
