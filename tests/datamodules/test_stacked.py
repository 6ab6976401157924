"""Stacked digits: the label is what the colours show, seeds draw it, modes are equally frequent, splits share no digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import collate
from datamodules.stacked import StackedDataModule, StackedDataset
from tests.datamodules.class_data import write_class_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    for name in ("mnist", "cifar10"):
        write_class_data(path, name, num_train=400, num_test=30)
    return path


def make(root: Path, **arguments) -> StackedDataModule:
    small = {"num_val": 100, "num_images": 5000, "num_val_images": 50, "num_test_images": 60}
    dm = StackedDataModule(name="mnist", root=str(root), **{**small, **arguments})
    dm.setup()
    return dm


def places(image: torch.Tensor) -> torch.Tensor:
    """(B, 3, 28, 28) -> (B, 3): the digit of each colour, which the test's images show by the height of a bar."""
    rows = image[..., 4:24].mean(-1)  # (B, 3, 28)
    bars = torch.stack([rows[..., 2 + 2 * d : 5 + 2 * d].mean(-1) for d in range(10)], -1)
    return bars.argmax(-1)


def test_a_batch_has_the_types_of_the_contract_and_the_label_spells_the_colours(root: Path) -> None:
    dm = make(root)
    assert (dm.image_size, dm.channels, dm.num_classes, dm.captioned) == (28, 3, 1000, False)
    for loader, n in ((dm.train_dataloader(), 64), (dm.val_dataloader(), 50), (dm.test_dataloader(), 60)):
        batch = next(iter(loader))
        assert batch["image"].shape == (n, 3, 28, 28) and batch["image"].dtype == torch.float32
        assert batch["label"].dtype == batch["seed"].dtype == torch.int64
        assert batch["image"].min() == -1 and 0.2 < batch["image"].max() <= 1
        assert torch.equal(places(batch["image"]) @ torch.tensor([100, 10, 1]), batch["label"])
    assert len(dm.val_dataset) == 50 and len(dm.test_dataset) == 60


def test_a_whole_batch_is_what_its_items_are_and_the_seed_alone_decides(root: Path) -> None:
    dataset = make(root).train_dataset
    keys = [(i, 2**62 + 977 * i) for i in (3, 0, 3, 199)]
    whole, single = dataset.__getitems__(keys), collate([dataset[key] for key in keys])
    assert set(whole) == set(single) == {"image", "label", "seed"}
    assert all(torch.equal(whole[name], value) for name, value in single.items())
    one, same, other = (dataset[key] for key in ((5, 1), (13, 1), (5, 2)))
    assert torch.equal(one["image"], same["image"]) and not torch.equal(one["image"], other["image"])


def test_digits_are_equally_frequent_and_independent_though_the_files_are_not(root: Path, tmp_path: Path) -> None:
    dm = make(root)
    digits = dm.digits.train_dataset
    digits.rows = digits.rows[(digits.labels[digits.rows] != 7) | (torch.arange(len(digits.rows)) % 5 == 0)]
    label = StackedDataset(digits, 1).__getitems__([(0, seed) for seed in range(20_000)])["label"]
    counts = torch.bincount(label, minlength=1000)
    chi2 = float(((counts - 20) ** 2 / 20).sum())  # 999 degrees of freedom
    assert abs(chi2 - 999) < 4 * (2 * 999) ** 0.5


def test_no_class_is_needed(root: Path) -> None:
    label = next(iter(make(root, num_val=2).val_dataloader()))["label"]
    assert 1 <= len(label.unique()) <= 8


def test_splits_have_digits_of_their_own(root: Path) -> None:
    dm = make(root)
    train, val = (set(d.digits.rows.tolist()) for d in (dm.train_dataset, dm.val_dataset))
    assert not train & val and len(val) == 100
    assert dm.test_dataset.digits.image_u8 is not dm.train_dataset.digits.image_u8
    shown = {tuple(colour.flatten().tolist()) for image in next(iter(dm.val_dataloader()))["image"] for colour in image}
    owned = {tuple((dm.val_dataset.digits[(i, 0)]["image"]).flatten().tolist()) for i in range(100)}
    assert shown <= owned and len(shown) > 50


def test_a_resumed_run_sees_the_batches_that_it_would_have_seen(root: Path) -> None:
    def batches(start: int, workers: int = 0) -> list[torch.Tensor]:
        dm = make(root, num_images=100, num_workers=workers)
        dm.num_batches, dm.run_seed, dm.start_batch = 5, 3, start
        return [batch["label"] for batch in dm.train_dataloader()]

    whole = batches(0)
    assert len({tuple(b.tolist()) for b in whole}) == 5, "every pass draws anew"
    for rest in (batches(3), batches(3, workers=1)):
        assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))


def test_fingerprint_tells_data_apart(root: Path) -> None:
    assert make(root).fingerprint() == make(root, batch_size=4, num_test_images=9).fingerprint()
    others = [make(root, **more).fingerprint() for more in ({"num_images": 7}, {"num_val": 7}, {"data_seed": 1})]
    assert len({make(root).fingerprint(), *others}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar10"}, "data.name=cifar10: its images have colours, and grey ones are stacked: mnist"),
        ({"name": "minst"}, "data.name='minst'"),
        ({"channels": 1}, "data.channels=1, num_classes=None: stacks have 3 and 1000"),
        ({"num_classes": 10}, "num_classes=10: stacks have 3 and 1000"),
        ({"num_images": 0}, "data.num_images must be a whole number of at least 1, got 0"),
        ({"num_test_images": 1.5}, "data.num_test_images must be a whole number of at least 1, got 1.5"),
        ({"num_val": 0}, "data.num_val"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        StackedDataModule(**{"name": "mnist", "root": "nowhere", **arguments})
    assert "\n" not in str(error.value)


def test_drawing_is_the_same_on_every_machine(root: Path) -> None:
    label = make(root).train_dataset.__getitems__([(0, seed) for seed in range(5)])["label"]
    assert np.array_equal(label, PINNED)


PINNED = [671, 516, 702, 839, 132]


class Rows:
    """Digits that are told apart: an image's level is its row."""

    labels, captions = torch.arange(300) % 10, tuple("0123456789")
    rows = torch.arange(300)

    def __getitems__(self, keys):
        rows = torch.tensor([row for row, _ in keys])
        return {"image": rows.float()[:, None, None, None], "label": self.labels[rows]}


def test_every_digit_of_a_class_is_drawn_at_every_place() -> None:
    drawn = StackedDataset(Rows(), 1).__getitems__([(0, seed) for seed in range(6000)])
    rows = drawn["image"][..., 0, 0].long()  # (B, 3)
    counts = torch.stack([torch.bincount(place, minlength=300) for place in rows.T])  # 20 of each on average
    assert counts.min() > 2 and counts.max() < 50
    assert torch.equal((rows % 10) @ torch.tensor([100, 10, 1]), drawn["label"])
