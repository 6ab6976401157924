"""Variations, ways and edits through embeddings: what the model is asked to draw, in numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contracts import DrawsEmbeddings, Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.embedding_tasks import edit, interpolate_embeddings, variations


class Sum:
    """An image is its embedding, spread over 2 x 2 pixels, and its noise; `shift` is added to what is drawn."""

    words = {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0], "c": [0.6, 0.8, 0.0]}

    def embedding_of(self, request: Request) -> Tensor:
        return F.normalize(request.images.mean((2, 3)), dim=1)

    def noise_of(self, z: Tensor, request: Request, *, scale: float = 1.0) -> Tensor:
        return scale * (request.images - z[:, :, None, None])

    def draw_embedded(self, z: Tensor, request: Request, *, seeds: Any, x_T: Tensor | None = None, eta: float | None = None, shift: float = 0.0) -> Tensor:
        self.z, self.x_T, self.seeds = z, x_T, seeds
        return z[:, :, None, None] + (torch.zeros(len(z), 3, 2, 2) if x_T is None else x_T) + shift

    def captions_embedded(self, captions: Any) -> Tensor:
        return torch.tensor([self.words[c] for c in captions])


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0)) - 0.5


def test_a_stand_in_is_what_the_protocol_says() -> None:
    assert isinstance(Sum(), DrawsEmbeddings)


def test_variations_share_the_embedding_and_only_with_eta_the_noise() -> None:
    module, image = Sum(), images(1)
    request = Request(3, images=image.expand(3, -1, -1, -1))
    fresh = variations(module, request, [1, 2, 3], {}, {})
    z = module.embedding_of(Request(1, images=image))
    assert torch.equal(module.z, z.expand(3, -1)) and module.x_T is None and module.seeds == [1, 2, 3] and fresh.facts == {}
    again = variations(module, request, [1, 2, 3], {}, {"eta": 0})
    assert torch.equal(again.images_u8, to_uint8(request.images)) and again.facts["psnr_db"] > 50
    wrong = variations(module, request, [1, 2, 3], {"scale": 0.9}, {"eta": 0.0, "shift": 0.1})
    error = (wrong.images_u8.double() - to_uint8(request.images).double()).square().mean((1, 2, 3))
    assert wrong.facts["psnr_db"] == pytest.approx(float((10 * (255**2 / error).log10()).mean()))
    assert variations(module, request, [1, 2, 3], {}, {"eta": 0.5}).facts == {} and module.x_T is not None


def test_a_way_is_an_arc_in_both_and_its_ends_are_exact() -> None:
    module, ends = Sum(), images(2)
    request = Request(5, images=torch.cat([ends[:1]] * 4 + [ends[1:]]))
    found = interpolate_embeddings(module, request, [7] * 5, {}, {})
    z = module.embedding_of(Request(2, images=ends))
    x_T = module.noise_of(z, Request(2, images=ends))
    assert torch.equal(module.z[[0, -1]], z) and torch.equal(module.x_T[[0, -1]], x_T) and module.seeds == [7] * 5
    torch.testing.assert_close(module.z.norm(dim=1), torch.ones(5))
    angle = torch.acos((z[0] * z[1]).sum())
    torch.testing.assert_close(torch.acos((module.z[:4] * module.z[1:]).sum(1)), (angle / 4).expand(4), rtol=1e-3, atol=1e-4)
    noise = module.x_T.flatten(1)
    assert ((noise[2] - noise[0]).norm() - (noise[2] - noise[4]).norm()).abs() < 0.2 * noise[0].norm()
    assert torch.equal(found.images_u8[[0, -1]], to_uint8(ends)) and min(found.facts.values()) > 50


def test_an_edit_turns_the_embedding_to_the_difference_of_its_words_and_keeps_the_noise() -> None:
    module, image = Sum(), images(1)
    request = Request(4, images=image.expand(4, -1, -1, -1))
    found = edit(module, request, ("a", "b"), [7] * 4, {}, {})
    z = module.embedding_of(Request(1, images=image))[0]
    direction = torch.tensor([-1.0, 1.0, 0.0]) / 2**0.5
    torch.testing.assert_close(module.z[0], z)
    torch.testing.assert_close(module.z.norm(dim=1), torch.ones(4))
    whole = torch.acos((z * direction).sum())
    torch.testing.assert_close(torch.acos((module.z @ direction).clamp(-1, 1)), whole * (1 - torch.linspace(0, 0.5, 4)), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(x, module.x_T[0]) for x in module.x_T) and torch.equal(found.images_u8[:1], to_uint8(image))
    assert found.facts["first_psnr_db"] > 50


def test_between_equal_words_nothing_is_edited() -> None:
    module, image = Sum(), images(1)
    found = edit(module, Request(3, images=image.expand(3, -1, -1, -1)), ("c", "c"), [7] * 3, {}, {})
    torch.testing.assert_close(module.z, module.embedding_of(Request(1, images=image)).expand(3, -1))
    assert all(torch.equal(x, to_uint8(image)[0]) for x in found.images_u8)
