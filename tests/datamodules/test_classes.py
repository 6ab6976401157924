"""Labelled images: official splits, whole batches that equal their items, binarisation, sizes and captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import class_files
from datamodules.base import collate, to_model_range
from datamodules.classes import ClassDataModule, ClassesDataset, caption, cut, to_size
from datamodules.keyed import bernoulli_u8, keyed_bits, streams
from tests.datamodules.class_data import write_class_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        write_class_data(path, name, num_train=240, num_test=120)
    return path


def make(root: Path, name: str = "mnist", **arguments) -> ClassDataModule:
    dm = ClassDataModule(name, str(root), **{"batch_size": 16, "num_val": 40, **arguments})
    dm.setup()
    return dm


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mnist", (1, 28, 28), 10),
        ("fashion_mnist", (1, 28, 28), 10),
        ("cifar10", (3, 32, 32), 10),
        ("cifar100", (3, 32, 32), 100),
    ],
)
def test_batch_has_the_types_of_the_contract(root: Path, name: str, shape: tuple, classes: int) -> None:
    dm = make(root, name)
    assert (dm.channels, dm.image_size, dm.image_size) == shape and dm.num_classes == classes and dm.captioned
    batch = next(iter(dm.train_dataloader()))
    assert batch["image"].shape == (16, *shape) and batch["image"].dtype == torch.float32
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1
    assert batch["label"].dtype == batch["seed"].dtype == torch.int64 and batch["label"].shape == (16,)
    names = [dm.class_names[label] for label in batch["label"].tolist()]
    assert all(name in text for name, text in zip(names, batch["caption"]))
    assert [len(d) for d in (dm.train_dataset, dm.val_dataset, dm.test_dataset)] == [200, 40, 120]


@pytest.mark.parametrize("options", [
    {}, {"image_size": 40, "random_flip": True}, {"binarize": "dynamic", "random_flip": True}, {"channels": 3},
])  # fmt: skip
def test_a_whole_batch_is_what_its_items_are(root: Path, options: dict) -> None:
    dataset = make(root, **options).train_dataset
    keys = [(i, 2**62 + 977 * i) for i in (3, 0, 3, 199)]
    whole, single = dataset.__getitems__(keys), collate([dataset[key] for key in keys])
    assert set(whole) == set(single)
    for name, value in single.items():
        assert torch.equal(whole[name], value) if torch.is_tensor(value) else whole[name] == value


def test_values_are_those_of_the_file(root: Path) -> None:
    dm = make(root)
    content = class_files.read_idx(root / "MNIST" / "raw" / "t10k-images-idx3-ubyte", 3)
    item = dm.test_dataset[(7, 0)]
    assert torch.equal(item["image"], to_model_range(content[7])) and item["label"] == 7


def test_validation_is_cut_from_train_by_seed(root: Path) -> None:
    a, b, c = make(root), make(root), make(root, data_seed=1)
    train, val = (set(d.rows.tolist()) for d in (a.train_dataset, a.val_dataset))
    assert not train & val and train | val == set(range(240))
    assert torch.equal(a.val_dataset.rows, b.val_dataset.rows)
    assert not torch.equal(a.val_dataset.rows, c.val_dataset.rows)
    assert torch.equal(cut(1000, 10, 3)[1], torch.tensor(PINNED)), "the same rows on every machine"


PINNED = [13, 133, 296, 325, 367, 371, 496, 652, 681, 836]


def test_workers_leave_no_trace(root: Path) -> None:
    pair = [make(root, random_flip=True, binarize="dynamic", num_workers=n) for n in (0, 2)]
    for dm in pair:
        dm.num_batches = 5
    for a, b in zip(*(dm.train_dataloader() for dm in pair), strict=True):
        assert torch.equal(a["image"], b["image"]) and a["caption"] == b["caption"]


def test_half_of_the_training_images_are_mirrored(root: Path) -> None:
    plain, flipping = make(root), make(root, random_flip=True)
    keys = [(i % 200, i) for i in range(400)]
    image, maybe = (dm.train_dataset.__getitems__(keys)["image"] for dm in (plain, flipping))
    mirrored = (maybe == image.flip(-1)).flatten(1).all(1)
    assert (mirrored | (maybe == image).flatten(1).all(1)).all()
    assert 150 < mirrored.sum() < 250
    assert torch.equal(flipping.val_dataset[(0, 1)]["image"], plain.val_dataset[(0, 1)]["image"])


# ---- binarisation ----


def draws(dataset, seeds=range(300)) -> torch.Tensor:
    return dataset.__getitems__([(5, s) for s in seeds])["image"]


def test_dynamic_binarisation_has_the_grey_values_as_means(root: Path) -> None:
    drawn, grey = draws(make(root, binarize="dynamic").train_dataset), make(root).train_dataset[(5, 0)]["image"]
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert (drawn.mean(0) - grey).abs().max() < 5 * 1 / 300**0.5 and not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_evaluation_sees_one_binarisation_whatever_the_seed(root: Path, binarize: str) -> None:
    dm = make(root, binarize=binarize)
    for dataset in (dm.val_dataset, dm.test_dataset):
        drawn = draws(dataset, range(4))
        assert set(drawn.unique().tolist()) == {-1.0, 1.0} and (drawn == drawn[0]).all()
    assert (draws(dm.train_dataset, range(4)) == draws(dm.train_dataset, range(1))).all() == (binarize != "dynamic")


def test_static_and_threshold_are_what_they_say(root: Path) -> None:
    grey = make(root).train_dataset[(5, 0)]["image"]
    other = make(root, binarize="static", data_seed=1, num_val=40).train_dataset
    cut_at_half = make(root, binarize="threshold").train_dataset[(5, 0)]["image"]
    assert torch.equal(cut_at_half, torch.where(grey > 0, 1.0, -1.0))
    assert not torch.equal(make(root, binarize="static").test_dataset[(0, 0)]["image"], other[(0, 0)]["image"])


def test_black_stays_black_and_white_white() -> None:
    image_u8 = np.tile(np.array([0, 255], np.uint8), (5000, 8))
    assert np.array_equal(bernoulli_u8(image_u8, np.arange(5000), "x"), image_u8)


def test_keyed_bits_are_uniform_independent_and_those_of_splitmix() -> None:
    bits = keyed_bits(np.arange(2000, dtype=np.uint64), "tag", 64)
    unit = bits / 2.0**64
    assert abs(unit.mean() - 0.5) < 0.005 and abs(unit.std() - 12**-0.5) < 0.005
    assert abs(np.corrcoef(unit[:-1].ravel(), unit[1:].ravel())[0, 1]) < 0.02  # neighbouring seeds
    assert abs(np.corrcoef(unit[:, 0], unit[:, 1])[0, 1]) < 0.08
    assert np.array_equal(keyed_bits(np.array([7]), "tag", 64)[0], bits[7])
    assert not np.array_equal(keyed_bits(np.array([7]), "other", 64)[0], bits[7])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # SplitMix64's own, from 1234567
    assert streams(np.array([1234567], np.uint64), 3).tolist() == [published]


# ---- sizes and captions ----


def test_a_drawing_grows_by_a_black_margin_up_to_32() -> None:
    image_u8 = torch.randint(1, 256, (2, 1, 28, 28), dtype=torch.uint8)
    padded = to_size(image_u8, 32)
    assert torch.equal(padded[:, :, 2:30, 2:30], image_u8) and padded.sum() == image_u8.sum()
    assert to_size(image_u8, 64).shape == (2, 1, 64, 64) and to_size(image_u8, 28) is image_u8


def test_resizing_is_antialiased_and_leaves_flat_images_flat() -> None:
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(16).expand(1, 3, 32, 32)
    assert to_size(stripes, 8).float()[..., 1:-1].sub(127.5).abs().max() < 20  # without antialiasing: 0 or 255
    assert (to_size(torch.full((1, 3, 32, 32), 77, dtype=torch.uint8), 50) == 77).all()


def test_captions_have_the_right_article(root: Path) -> None:
    assert caption("a photo of a {}", "sneaker") == "a photo of a sneaker"
    assert caption("A {}", "ankle boot") == "An ankle boot"
    assert caption("extra {}", "apple") == "extra apple"
    assert make(root, "fashion_mnist").test_dataset[(9, 0)]["caption"] == "a photo of an ankle boot"
    assert make(root, "cifar10").test_dataset[(0, 0)]["caption"].startswith("a photo of a thing ")


def test_fingerprint_tells_data_apart(root: Path, tmp_path: Path) -> None:
    write_class_data(tmp_path, "mnist", num_train=240, num_test=121)
    others = [
        make(tmp_path), make(root, "fashion_mnist", caption_template="the {}"), make(root, image_size=32),
        make(root, channels=3), make(root, random_flip=True), make(root, binarize="static"), make(root, data_seed=1),
    ]  # fmt: skip
    assert make(root).fingerprint() == make(root, batch_size=4, num_workers=1).fingerprint()
    assert len({make(root).fingerprint(), *(o.fingerprint() for o in others)}) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist2"}, "choose one of garments, mnist, fashion_mnist"),
        ({"channels": 2}, "data.channels=2: mnist has 1 or 3"),
        ({"name": "cifar10", "channels": 1}, "data.channels=1: cifar10 has 3$"),
        ({"num_classes": 100}, "data.num_classes=100: mnist has 10"),
        ({"binarize": "yes"}, "choose one of none, dynamic"),
        ({"name": "cifar10", "binarize": "dynamic"}, "has colours"),
        ({"caption_template": "a photo"}, "has no {}"),
        ({"num_val": 0}, "at least 1, got 0"),
        ({"image_size": 0}, "data.image_size must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ClassDataModule(**{"name": "mnist", "root": "nowhere", **arguments})
    assert "\n" not in str(error.value)


def test_validation_leaves_something_to_train_on(root: Path) -> None:
    with pytest.raises(ValueError, match="data.num_val=240 leaves nothing of 240 training images"):
        make(root, num_val=240)


def test_white_begins_above_127() -> None:
    levels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    dataset = ClassesDataset(levels, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), ["x"],
                             image_size=2, channels=1, binarize="threshold")  # fmt: skip
    assert dataset[(0, 0)]["image"].flatten().tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("name", ["apple", "egg", "iron", "orange", "umbrella", "Apple"])
def test_every_vowel_takes_an(name: str) -> None:
    assert caption("a photo of a {}", name) == f"a photo of an {name}"


def test_garments_have_no_folder_and_the_others_need_one() -> None:
    with pytest.raises(ValueError, match=r"data.root=here: garments come with this repository and take no folder \(data.root=null\); data=fashion_mnist does"):
        ClassDataModule("garments", "here")
    with pytest.raises(ValueError, match="data.root=null: say where mnist lies or shall be downloaded to"):
        ClassDataModule("mnist")
    assert ClassDataModule("garments").root is None
