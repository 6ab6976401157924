"""Mixtures of Gaussians: the right modes, one point per sample seed, batches that equal their items, exact resume."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from datamodules.base import collate
from datamodules.points import PointsDataModule, normal

CONF = Path(__file__).parents[2] / "conf" / "data"
MODES = {"ring": 8, "grid": 25}


def make(name: str = "ring", **arguments) -> PointsDataModule:
    conf = {key: value for key, value in OmegaConf.load(CONF / f"{name}.yaml").items() if key != "_target_"}
    dm = PointsDataModule(**{**conf, **arguments})
    dm.setup()
    return dm


@pytest.mark.parametrize("name", MODES)
def test_batch_has_the_types_of_the_contract(name: str) -> None:
    dm = make(name)
    assert (dm.image_size, dm.channels, dm.num_classes, dm.captioned) == (1, 2, MODES[name], False)
    for loader in (dm.train_dataloader(), dm.val_dataloader(), dm.test_dataloader()):
        batch = next(iter(loader))
        assert batch["image"].shape == (256, 2, 1, 1) and batch["image"].dtype == torch.float32
        assert batch["label"].dtype == batch["seed"].dtype == torch.int64 and batch["label"].shape == (256,)
        assert batch["image"].abs().max() <= 1


def test_modes_lie_where_the_papers_have_them() -> None:
    ring, grid = make("ring"), make("grid")
    angles = np.arctan2(ring.centres[:, 1], ring.centres[:, 0]) % (2 * np.pi)
    assert np.allclose(angles, np.arange(8) * np.pi / 4, atol=1e-5)
    assert np.allclose(np.hypot(*ring.centres.T), 100 * ring.std, atol=1e-5), "radius 2, deviation 0.02"
    steps = np.unique(grid.centres[:, 0])
    assert np.allclose(np.diff(steps), 40 * grid.std), "2 apart, deviation 0.05"
    assert {(x, y) for x, y in grid.centres.tolist()} == {(x, y) for x in steps for y in steps}


@pytest.mark.parametrize("name", MODES)
def test_points_are_gaussian_around_their_mode_and_modes_equally_frequent(name: str) -> None:
    dm = make(name, batch_size=20_000)
    batch = next(iter(dm.train_dataloader()))
    away = (batch["image"].flatten(1).numpy() - dm.centres[batch["label"]]) / dm.std
    assert np.abs(away.mean(0)).max() < 0.03 and np.abs(np.cov(away.T) - np.eye(2)).max() < 0.04
    assert (np.hypot(*away.T) <= 3).mean() == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    counts = torch.bincount(batch["label"], minlength=dm.num_classes) / 20_000 * dm.num_classes
    assert (counts - 1).abs().max() < 0.1
    whole = np.bincount(np.arange(len(dm.train_dataset)) % dm.num_classes)
    assert whole.max() == whole.min()


def test_a_whole_batch_is_what_its_items_are() -> None:
    dataset = make().train_dataset
    keys = [(i, 2**62 + 977 * i) for i in (3, 0, 3, 199)]
    whole, single = dataset.__getitems__(keys), collate([dataset[key] for key in keys])
    assert set(whole) == set(single) == {"image", "label", "seed"}
    assert all(torch.equal(whole[name], value) for name, value in single.items())
    assert whole["label"].tolist() == [3, 0, 3, 7] and whole["seed"].tolist() == [seed for _, seed in keys]


def test_a_point_is_its_seed_and_every_pass_draws_anew() -> None:
    dataset = make().train_dataset
    one, same, other = (dataset[key]["image"] for key in ((5, 1), (13, 1), (5, 2)))
    assert torch.equal(one, same) and not torch.equal(one, other), "13 and 5 are of one mode"
    drawn = normal(np.array([0, 1], np.uint64)).ravel().tolist()
    assert drawn == pytest.approx(PINNED, rel=1e-11), "the same on every machine"


PINNED = [-0.02671744486324, 1.494708788418, 1.213876088739, 1.663036501591]


def test_a_resumed_run_sees_the_batches_that_it_would_have_seen() -> None:
    def batches(start: int, workers: int = 0) -> list[torch.Tensor]:
        dm = make(batch_size=64, num_images=100, num_workers=workers)
        dm.num_batches, dm.run_seed, dm.start_batch = 6, 3, start
        return [batch["image"] for batch in dm.train_dataloader()]

    whole = batches(0)
    assert len({tuple(b.flatten().tolist()) for b in whole}) == 6
    for rest in (batches(4), batches(4, workers=1)):
        assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_validation_and_test_stay_and_differ() -> None:
    dm = make()
    val, again, test = (next(iter(loader)) for loader in (
        dm.val_dataloader(), make(num_images=7).val_dataloader(), dm.test_dataloader()
    ))  # fmt: skip
    assert torch.equal(val["image"], again["image"]) and not torch.equal(val["image"], test["image"])
    assert len(dm.val_dataset) == len(dm.test_dataset) == 2000


def test_fingerprint_tells_data_apart() -> None:
    others = [make("grid"), make(std=0.01), make(num_images=7)]
    assert make().fingerprint() == make(batch_size=4, num_workers=1).fingerprint()
    assert len({make().fingerprint(), *(o.fingerprint() for o in others)}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.06}, r"data.std=0.06 around centres as far out as 0.8: give a number above 0 with 4 of it within"),
        ({"std": 0.0}, "data.std=0.0"),
        ({"centres": [[0.1, 0.2, 0.3]]}, r"data.centres has the shape \(1, 3\): give a list of pairs"),
        ({"centres": []}, "data.centres has the shape"),
        ({"image_size": 28}, "data.image_size=28, channels=2, num_classes=8: points of 8 modes have 1, 2 and 8"),
        ({"channels": 3}, "channels=3"),
        ({"num_classes": 10}, "num_classes=10"),
        ({"num_val": 0}, "at least 1, got 50000 and 0"),
        ({"batch_size": 0}, "data.batch_size must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(**arguments)
    assert "\n" not in str(error.value)
