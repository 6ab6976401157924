"""The sets of spoiled scenes are what their names say, and the table tells which orderings hold."""

from __future__ import annotations

import colorsys

import pytest
import torch

from benchmarks.scene_ordering import STEPS, benchmark, image_sets, only_circles, orderings, scenes, stains, table, turned
from datamodules.scenes import scene_spec
from scenes.parser import parse
from tests.evaluation.pixel_features import Pixels



class Coarse(Pixels):
    """Averages of blocks of pixels."""

    id = "coarse"

    def _features(self, net: torch.nn.Module, image_u8: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image_u8.float(), image_u8.shape[-1] // 4).flatten(1)


HERE = {name for step in STEPS for name in step}


def test_sets_are_repeatable_share_no_image_with_the_reference_and_show_what_they_say() -> None:
    sets, again = image_sets(12, 64), image_sets(12, 64)
    assert set(sets) == HERE
    reference = scenes(12, "reference", 64)
    for name, make in sets.items():
        image_u8 = make()
        assert image_u8.shape == (12, 3, 64, 64) and image_u8.dtype == torch.uint8, name
        assert torch.equal(image_u8, again[name]()), name
        assert not (image_u8[:, None] == reference[None]).flatten(2).all(2).any(), name
    shapes = [obj.shape for image in sets["circles alone"]() for obj in parse(image.permute(1, 2, 0).numpy()).objects]
    assert shapes and set(shapes) == {"circle"}
    alone = [parse(image.permute(1, 2, 0).numpy()) for image in sets["no words and no pairs"]()]
    assert all(len({(o.colour, o.shape) for o in scene.objects}) == 1 for scene in alone)


def test_circles_are_told_from_words_and_other_shapes() -> None:
    specs = [scene_spec("scenes", "train", "x", 0, i) for i in range(200)]
    kept = [spec for spec in specs if only_circles(spec)]
    assert kept and all(group.shape == "circle" for spec in kept for group in spec.groups)
    assert all(spec.groups for spec in kept) and len(kept) < 100


def test_stains_are_invisible_and_of_their_strength() -> None:
    grey = torch.full((40, 3, 64, 64), 128, dtype=torch.uint8)
    change = stains(grey, 2).float() - 128
    assert 1 < change.std() < 2.5 and change.abs().max() < 12
    assert (change[..., 1:] - change[..., :-1]).std() < change.std() / 2


def test_hues_are_turned_and_greys_stay() -> None:
    pixels = torch.tensor([[220, 40, 40], [40, 160, 60], [24, 24, 24]], dtype=torch.uint8).T[None, :, :, None]
    found = turned(pixels, 60)[0, :, :, 0].T.float() / 255
    for before, after in zip(pixels[0, :, :, 0].T[:2].float() / 255, found):
        wanted, got = colorsys.rgb_to_hsv(*before.tolist()), colorsys.rgb_to_hsv(*after.tolist())
        assert got[0] == pytest.approx((wanted[0] + 1 / 6) % 1, abs=0.01)
        assert got[1:] == pytest.approx(wanted[1:], abs=0.02)
    assert torch.equal(turned(pixels, 60)[0, :, 2, 0], pixels[0, :, 2, 0])


def test_a_step_holds_if_its_worst_is_nearer_than_the_best_of_the_next() -> None:
    rows = {name: {"fd_x": float(i)} for i, step in enumerate(STEPS) for name in step}
    assert all(e["holds"] for e in orderings(rows, "fd_x")) and len(orderings(rows, "fd_x")) == len(STEPS) - 1
    rows["blur 1.5"] = {"fd_x": 10.0}
    assert [e["holds"] for e in orderings(rows, "fd_x")] == [True, True, True, False]
    rows["noise 0.1"] = {"fd_x": 0.5}
    assert [e["holds"] for e in orderings(rows, "fd_x")] == [True, True, False, False]


def test_the_table_has_every_set_and_the_verdict() -> None:
    result, images = benchmark([Coarse()], 130, 32)
    assert set(images) == HERE
    text = table(result)
    assert all(f"| {name}" in text for name in HERE) and "of 4 orderings hold" in text
    only = result["spaces"]["coarse"]["rows"]
    assert only["blur 0.4"]["fd_coarse"] != only["blur 1.5"]["fd_coarse"]
