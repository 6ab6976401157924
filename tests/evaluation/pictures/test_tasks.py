"""Tasks that start from images: what is asked of the model, and the pictures that come of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from contracts import Request
from evaluation.metrics.images import to_uint8
from evaluation.pictures.tasks import check_task, inpaint, interpolate, invert


class Half:
    """Its noise is half the image."""

    def invert(self, request: Request, **options: Any) -> torch.Tensor:
        return request.images / 2

    def draw_from(self, x_T: torch.Tensor, request: Request, **options: Any) -> torch.Tensor:
        self.drawn = x_T
        return 2 * x_T + options.get("shift", 0)


class Vectors(Half):
    """Its noise is a vector."""

    def invert(self, request: Request, **options: Any) -> torch.Tensor:
        return request.images.flatten(1) / 2

    def draw_from(self, x_T: torch.Tensor, request: Request, **options: Any) -> torch.Tensor:
        return 2 * x_T.view(-1, 3, 4, 4)


def images(*levels: float) -> torch.Tensor:
    pattern = torch.linspace(-0.5, 0.5, 48).view(1, 3, 4, 4)
    return torch.cat([level * pattern.flip(3) if level < 0 else level * pattern for level in levels])


def test_the_way_keeps_its_ends_and_its_length() -> None:
    module, ends = Half(), images(1.0, -1.0)
    request = Request(5, images=torch.cat([ends[:1]] * 4 + [ends[1:]]))
    found = interpolate(module, request, {}, {})
    assert torch.equal(found.images_u8[[0, -1]], to_uint8(ends))
    lengths = module.drawn.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand(5), rtol=1e-3, atol=0)  # an arc between equal lengths


@pytest.mark.parametrize(("module", "pictures"), [(Half(), 3), (Vectors(), 2)], ids=["pixels", "vectors"])
def test_noise_is_shown_where_it_is_a_picture(module: Any, pictures: int) -> None:
    found = invert(module, Request(1, images=images(1.0)), {}, {})
    assert torch.equal(found.images_u8, to_uint8(images(1.0))) and found.facts["mean_error_of_255"] == 0
    width, height = found.strip.size
    assert round(width / 132) == pictures


def test_what_is_drawn_again_differently_has_an_error() -> None:
    found = invert(Half(), Request(1, images=images(1.0)), {}, {"shift": 0.1})
    assert found.facts["mean_error_of_255"] == pytest.approx(12.75, abs=0.5)


def test_holes_get_one_picture_a_seed() -> None:
    class Filler:
        def inpaint(self, request: Request, *, seeds: Any, **options: Any) -> torch.Tensor:
            fill = torch.tensor(seeds).view(-1, 1, 1, 1) / 10
            return torch.where(request.masks, request.images, fill.expand_as(request.images))

    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., :2] = True
    request = Request(2, images=images(1.0, 1.0), masks=known.expand(2, -1, -1, -1))
    found = inpaint(Filler(), request, [3, 5], {})
    assert torch.equal(found.images_u8[..., :2], to_uint8(images(1.0, 1.0))[..., :2])
    assert found.images_u8[0, 0, 0, 3] == round(1.3 * 127.5) and found.images_u8[1, 0, 0, 3] == round(1.5 * 127.5)
    check_task("inpaint", Filler())
    with pytest.raises(ValueError, match="task=invert: this model cannot go from an image to its noise"):
        check_task("invert", Filler())
    with pytest.raises(ValueError, match="task=inpaint: this model cannot fill holes"):
        check_task("inpaint", Half())
