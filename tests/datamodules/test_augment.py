"""Augmentation with labels: exact where it can be, zero labels for untouched images alone, keyed by the seed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from datamodules.augment import LABEL_DIM, Augmentation, apply, augment, draw
from datamodules.classes import ClassDataModule
from tests.datamodules.class_data import write_class_data

NOISE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def one(image: torch.Tensor, **what) -> torch.Tensor:
    return apply(image, [Augmentation(**what)])


def smooth(size: int, dx: float = 0.0, dy: float = 0.0, angle: float = 0.0, factor: float = 1.0) -> torch.Tensor:
    """A smooth periodic picture (1, 1, S, S), moved by (dx, dy) pixels, turned and enlarged about its centre."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(place - dy, place - dx, indexing="ij")
    x, y = (math.cos(angle) * x - math.sin(angle) * y) / factor, (math.sin(angle) * x + math.cos(angle) * y) / factor
    wave = 2 * math.pi / 16
    return (0.5 * torch.sin(wave * x + 0.3) + 0.4 * torch.cos(wave * y * 0.7 + x * 0.1)).float()[None, None]


def middle(image: torch.Tensor) -> torch.Tensor:
    return image[..., 10:-10, 10:-10]


def test_flips_are_exact_and_their_own_inverses() -> None:
    assert torch.equal(one(NOISE, flip_x=True), NOISE.flip(-1)) and torch.equal(one(NOISE, flip_y=True), NOISE.flip(-2))
    both = one(NOISE, flip_x=True, flip_y=True)
    assert torch.equal(one(both, flip_x=True, flip_y=True), NOISE) and torch.equal(one(NOISE), NOISE)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_those_of_rot90_and_turn_back(turns: int) -> None:
    turned = one(NOISE, rotation=turns * math.pi / 2)
    assert torch.allclose(turned, torch.rot90(NOISE, turns, (-2, -1)), atol=1e-5)
    assert torch.allclose(one(turned, rotation=-turns * math.pi / 2), NOISE, atol=2e-5)


def test_shifts_by_whole_pixels_are_exact_and_reflect_the_edge() -> None:
    moved = one(NOISE, shift_x=1.0, shift_y=-0.5)  # 16 pixels: two to the right, one up
    assert torch.allclose(moved[..., :-1, 2:], NOISE[..., 1:, :-2], atol=1e-5)
    assert torch.allclose(moved[..., :-1, :2], NOISE[..., 1:, :2].flip(-1), atol=1e-5)
    assert torch.allclose(moved[..., -1, 2:], NOISE[..., -1, :-2], atol=1e-5)


@pytest.mark.parametrize(
    "what,expected",
    [
        ({"shift_x": 0.3}, {"dx": 0.3 * 6}),
        ({"shift_y": -0.7}, {"dy": -0.7 * 6}),
        ({"rotation": 0.4}, {"angle": 0.4}),
        ({"scale": 1.0}, {"factor": 2**0.2}),
        ({"scale": -1.0}, {"factor": 2**-0.2}),
        ({"scale": 0.5, "rotation": -1.0, "shift_x": 0.2}, {"factor": 2**0.1, "angle": -1.0, "dx": 1.2}),
    ],
)
def test_a_smooth_picture_is_interpolated_closely(what: dict, expected: dict) -> None:
    found = one(smooth(48), **what)
    assert (middle(found) - middle(smooth(48, **expected))).abs().max() < 0.01


@pytest.mark.parametrize("angle", [0.0, 0.6, math.pi / 2])
def test_stretching_keeps_the_area_and_has_an_inverse(angle: float) -> None:
    matrix = torch.tensor(Augmentation(aniso=1.5, aniso_angle=angle).inverse_matrix())[:, :2]
    assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-6)
    assert torch.linalg.eigvals(matrix).real.max().item() == pytest.approx(2**0.3, abs=1e-6)
    along = torch.tensor([math.cos(angle), -math.sin(angle)])  # y points down
    assert torch.allclose(matrix @ along, along * 2**-0.3, atol=1e-6)
    back = one(one(smooth(48), aniso=0.8, aniso_angle=angle), aniso=-0.8, aniso_angle=angle)
    assert (middle(back) - middle(smooth(48))).abs().max() < 0.02


def test_constant_pictures_stay_constant() -> None:
    image = torch.full((40, 1, 12, 12), 0.3)
    found, labels = augment(image, range(40), 1.0)
    assert (found - 0.3).abs().max() < 1e-5 and (labels != 0).any(1).all()


def test_a_label_is_zero_where_an_image_is_untouched_and_nowhere_else() -> None:
    image = NOISE.expand(300, -1, -1, -1)
    found, labels = augment(image, range(300), 0.12)
    touched = (found != image).flatten(1).any(1)
    assert torch.equal(touched, (labels != 0).any(1)) and 60 < touched.sum() < 240
    assert labels.shape == (300, LABEL_DIM) and labels.dtype == torch.float32
    untouched, zeros = augment(image, range(300), 0.0)
    assert torch.equal(untouched, image) and not zeros.any()


def test_an_image_is_of_its_seed_alone() -> None:
    image = NOISE.expand(20, -1, -1, -1)
    found, labels = augment(image, range(20), 0.8)
    for i in (0, 7, 19):
        alone, label = augment(NOISE, [i], 0.8)
        assert torch.equal(alone[0], found[i]) and torch.equal(label[0], labels[i])
    assert len({tuple(row) for row in labels.tolist()}) == 20


def test_every_parameter_has_its_distribution() -> None:
    n = 20_000
    drawn = draw(range(n), 0.5)
    label = torch.tensor([a.label() for a in drawn], dtype=torch.float64)
    used = {
        "flip_x": (label[:, 0], 0.25), "flip_y": (label[:, 1], 0.25), "scale": (label[:, 2], 0.5),
        "rotation": (label[:, 4], 0.5), "aniso": (label[:, 5], 0.5), "shift": (label[:, 7], 0.5),
    }  # fmt: skip
    for name, (column, share) in used.items():
        assert abs((column != 0).double().mean() - share) < 4.5 * (share * (1 - share) / n) ** 0.5, name
    for name in ("scale", "aniso", "shift_x", "shift_y"):
        values = torch.tensor([getattr(a, name) for a in drawn if getattr(a, name)], dtype=torch.float64)
        assert abs(values.mean()) < 4.5 / len(values) ** 0.5 and abs(values.var() - 1) < 4.5 * (2 / len(values)) ** 0.5, name
    for name in ("rotation", "aniso_angle"):
        values = torch.tensor([getattr(a, name) for a in drawn if getattr(a, name)], dtype=torch.float64) / math.pi
        assert values.abs().max() <= 1 and abs(values.mean()) < 4.5 * (1 / 3 / len(values)) ** 0.5, name
        assert abs(values.var() - 1 / 3) < 0.02, name
    shift = torch.tensor([(a.shift_x, a.shift_y) for a in drawn if a.shift_x])
    assert abs(torch.corrcoef(shift.T)[0, 1]) < 4.5 / len(shift) ** 0.5
    used_at_all = (label[:, [0, 1, 2, 4, 5, 7]] != 0).double()
    assert torch.corrcoef(used_at_all.T).triu(1).abs().max() < 4.5 / n**0.5


def make(root: Path, **settings) -> ClassDataModule:
    dm = ClassDataModule("fashion_mnist", str(root), num_val=8, batch_size=8, **settings)
    dm.setup()
    return dm


def test_class_data_is_augmented_in_training_alone(tmp_path: Path) -> None:
    write_class_data(tmp_path, "fashion_mnist", num_train=40)
    plain, dm = make(tmp_path), make(tmp_path, augment_prob=0.5)
    keys = [(i, 100 + i) for i in range(30)]
    before, batch = plain.train_dataset.__getitems__(keys), dm.train_dataset.__getitems__(keys)
    expected, labels = augment(before["image"], [seed for _, seed in keys], 0.5)
    assert torch.equal(batch["image"], expected) and torch.equal(batch["augment"], labels) and labels.any()
    assert torch.equal(dm.train_dataset[keys[3]]["image"], batch["image"][3])
    assert torch.equal(dm.train_dataset[keys[3]]["augment"], batch["augment"][3])
    held_out = next(iter(dm.val_dataloader()))
    assert torch.equal(held_out["image"], next(iter(plain.val_dataloader()))["image"])
    assert held_out["augment"].shape == (8, LABEL_DIM) and not held_out["augment"].any()
    assert "augment" not in before and plain.fingerprint() != dm.fingerprint()


def test_workers_leave_no_trace(tmp_path: Path) -> None:
    write_class_data(tmp_path, "fashion_mnist", num_train=40)
    loaders = []
    for num_workers in (0, 2):
        dm = make(tmp_path, augment_prob=0.5, num_workers=num_workers)
        dm.num_batches = 4
        loaders.append(dm.train_dataloader())
    for a, b in zip(*loaders, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["augment"], b["augment"])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    for prob in (-0.1, 1.5, True, "often"):
        with pytest.raises(ValueError, match="data.augment_prob must lie between 0 and 1, got"):
            ClassDataModule("mnist", str(tmp_path), augment_prob=prob)
    with pytest.raises(ValueError, match="data.augment_prob=0.1 makes grey values, and data.binarize=static"):
        ClassDataModule("mnist", str(tmp_path), augment_prob=0.1, binarize="static")
