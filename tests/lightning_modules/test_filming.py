"""Films: their ends, their length, and the way from an image to noise."""

from __future__ import annotations

import torch

from contracts import Films, Request
from tests.lightning_modules.test_diffusion import make


def test_a_film_ends_with_the_images_and_begins_with_noise() -> None:
    module = make()
    request = Request(3, labels=[0, 1, None])
    x_t, x_0_hat = module.film(request, seeds=[1, 2, 3], num_steps=5)
    images = module.sample(request, seeds=[1, 2, 3], num_steps=5)
    assert isinstance(module, Films) and x_t.shape == x_0_hat.shape == (6, 3, 3, 2, 2)
    assert torch.equal(x_t[-1], images) and torch.equal(x_0_hat[-1], images) and x_t.abs().max() <= 1
    assert len(module.film(request, seeds=[1, 2, 3], num_steps=90)[0]) == 60


def test_adding_noise_begins_with_the_image_and_forgets_it() -> None:
    module, given = make(None), torch.full((2, 3, 2, 2), 0.5)
    way = module.noised(Request(2, images=given), seeds=[1, 2], frames=7)
    assert way.shape == (7, 2, 3, 2, 2) and way.abs().max() <= 1
    torch.testing.assert_close(way[0], given, rtol=0, atol=1e-3)
    other = module.noised(Request(2, images=-given), seeds=[1, 2], frames=7)
    torch.testing.assert_close(way[-1], other[-1], rtol=0, atol=1e-3)
    assert not torch.equal(way[-1][0], way[-1][1])
