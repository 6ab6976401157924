"""Any folder of images: labels from class folders, the guards of captioned folders, and one clear line for each mistake."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contracts import model_range
from datamodules.augment import augment
from datamodules.base import to_model_range
from datamodules.decode import load_square
from datamodules.images import ImagesDataModule, read_images
from tests.datamodules.test_hostile_folders import KINDS, special

CLASSES = ("bird", "cat", "Dog 2")


def picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three class folders with ten images each, some of them deeper down."""
    for i in range(30):
        name = CLASSES[i % 3]
        picture(tmp_path / "images" / name / ("deep/er" if i % 2 else "") / f"{i:02}.png", i)
    return tmp_path / "images"


def make(root: Path, **settings) -> ImagesDataModule:
    settings = {"image_size": 8, "batch_size": 4, "cache_dir": str(root.parent / "cache"), **settings}
    dm = ImagesDataModule(str(root), **settings)
    dm.setup()
    return dm


def test_folders_are_classes_in_the_order_of_their_names(root: Path, capsys) -> None:
    dm = make(root)
    assert dm.class_names == tuple(sorted(CLASSES)) == ("Dog 2", "bird", "cat") and dm.num_classes == 3
    assert "3 classes (Dog 2, bird, cat): data.num_classes=3 tells a model" in capsys.readouterr().out
    for dataset in (dm.train_dataset, dm.val_dataset):
        for index, sample in enumerate(dataset.samples):
            item = dataset[index, 5]
            assert dm.class_names[item["label"]] == sample.file.split("/")[0] and item["seed"] == 5
            assert torch.equal(item["image"], to_model_range(load_square(root / sample.file, 8)))


def test_a_batch_has_the_types_of_the_contract(root: Path) -> None:
    dm = make(root)
    batch = next(iter(dm.train_dataloader()))
    assert set(batch) == {"image", "label", "seed"} and not dm.captioned
    assert batch["image"].shape == (4, 3, 8, 8) and batch["image"].dtype == torch.uint8
    assert batch["label"].shape == (4,) and batch["label"].dtype == torch.int64
    assert batch["image"].min() < 128 < batch["image"].max()


def test_a_batch_of_grey_images_has_one_channel(root: Path) -> None:
    dm = make(root, channels=1)
    keys = [(0, 3), (2, 5)]
    batch = dm.train_dataset.__getitems__(keys)
    assert batch["image"].shape == (2, 1, 8, 8) and batch["seed"].tolist() == [3, 5]
    assert torch.equal(model_range(batch["image"]), torch.stack([dm.train_dataset[key]["image"] for key in keys]))


@pytest.mark.parametrize("flat", [True, False])
def test_without_class_folders_there_are_no_labels(tmp_path: Path, flat: bool) -> None:
    root = tmp_path / "images"
    for i in range(6):
        picture(root / ("" if flat else "all") / f"{i}.png", i)
    dm = make(root)
    assert dm.num_classes is None and dm.class_names == () and set(dm.train_dataset[0, 0]) == {"image", "seed"}


def test_folders_may_be_mere_places(root: Path) -> None:
    picture(root / "beside.png")
    dm = make(root, labels=False)
    assert dm.num_classes is None and set(dm.train_dataset[0, 0]) == {"image", "seed"}
    assert len(dm.train_dataset) + len(dm.val_dataset) == 31


def test_the_number_of_classes_is_checked(root: Path, tmp_path: Path) -> None:
    assert make(root, num_classes=3).num_classes == 3
    with pytest.raises(ValueError, match=r"data.num_classes=4, and .*images has 3 class folders \(Dog 2, bird, cat\): set data.num_classes=3"):
        make(root, num_classes=4)
    picture(tmp_path / "plain" / "a.png")
    with pytest.raises(ValueError, match="data.num_classes=4, and .*plain has none: set data.num_classes=null"):
        make(tmp_path / "plain", num_classes=4)


def test_one_channel_is_the_brightness(root: Path) -> None:
    grey, colour = make(root, channels=1), make(root)
    image = grey.train_dataset[3, 0]["image"]
    assert image.shape == (1, 8, 8)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert (image[0] - (colour.train_dataset[3, 0]["image"] * weights).sum(0)).abs().max() < 1.5 / 127.5


def test_splits_are_fixed_by_name_and_apart(root: Path) -> None:
    dm = make(root, val_fraction=0.3, test_fraction=0.3)
    parts = [{sample.file for sample in d.samples} for d in (dm.train_dataset, dm.val_dataset, dm.test_dataset)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30 and all(parts)
    picture(root / "cat" / "new.png", 99)
    again = make(root, val_fraction=0.3, test_fraction=0.3)
    for before, dataset in zip(parts, (again.train_dataset, again.val_dataset, again.test_dataset)):
        assert before <= {sample.file for sample in dataset.samples}
    assert make(root).test_dataset.samples == make(root).val_dataset.samples


def test_half_of_the_training_images_are_mirrored_where_asked(root: Path) -> None:
    plain, mirrored = make(root), make(root, random_flip=True)
    upright = plain.train_dataset[0, 0]["image"]
    flips = [torch.equal(mirrored.train_dataset[0, seed]["image"], upright.flip(-1)) for seed in range(40)]
    assert 8 < sum(flips) < 32 and not mirrored.val_dataset.random_flip
    assert all(torch.equal(plain.train_dataset[0, seed]["image"], upright) for seed in range(10))


def test_augmentation_adds_its_label_in_training(root: Path) -> None:
    plain, dm = make(root), make(root, augment_prob=0.7)
    for seed in range(5):
        item, before = dm.train_dataset[1, seed], plain.train_dataset[1, seed]
        image, label = augment(before["image"][None], [seed], 0.7)
        assert torch.equal(item["image"], image[0]) and torch.equal(item["augment"], label[0])
        batch = dm.train_dataset.__getitems__([(0, 9), (1, seed)])
        assert torch.equal(batch["image"][1], item["image"]) and torch.equal(batch["augment"][1], item["augment"])
    assert torch.equal(dm.val_dataset[0, 3]["image"], plain.val_dataset[0, 3]["image"])
    assert not next(iter(dm.val_dataloader()))["augment"].any() and dm.fingerprint() != plain.fingerprint()


def test_workers_leave_no_trace(root: Path) -> None:
    loaders = []
    for num_workers in (0, 2):
        dm = make(root, num_workers=num_workers, random_flip=True)
        dm.num_batches = 5
        loaders.append(dm.train_dataloader())
    for a, b in zip(*loaders, strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])


def test_the_fingerprint_tells_data_apart(root: Path) -> None:
    first = make(root).fingerprint()
    assert first == make(root, batch_size=2, num_workers=1, cache_in_memory=False, num_classes=3).fingerprint()
    changes = {"image_size": 6}, {"channels": 1}, {"random_flip": True}, {"labels": False}, {"test_fraction": 0.2}
    found = [make(root, **change).fingerprint() for change in changes]
    (root / "cat").rename(root / "ant")
    assert len({first, *found, make(root).fingerprint()}) == 7


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"root": None}, "data.root is not set: give the folder"),
        ({"channels": 2}, "data.channels=2: choose 3, or 1"),
        ({"image_size": 0}, "data.image_size must be a whole number of at least 1, got 0"),
        ({"image_size": 8.5}, "data.image_size must be a whole number of at least 1, got 8.5"),
        ({"num_classes": 1}, "data.num_classes must be null or a whole number of at least 2, got 1"),
        ({"num_classes": "auto"}, "data.num_classes must be null or a whole number of at least 2, got 'auto'"),
        ({"labels": "yes"}, "data.labels must be true or false, got 'yes'"),
        ({"labels": False, "num_classes": 3}, "contradict each other"),
        ({"val_fraction": 0}, "data.val_fraction must lie between 0 and 1, got 0"),
        ({"test_fraction": 1}, "data.test_fraction must be at least 0 and below 1, got 1"),
        ({"max_bad_fraction": 2}, "data.max_bad_fraction must lie between 0 and 1, got 2"),
        ({"allow_outside": 1}, "data.allow_outside must be true or false, got 1"),
    ],
)
def test_wrong_arguments_are_named_at_once(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagesDataModule(**{"root": "nowhere", **settings})


# ---- folders that cannot be used, or hold more than images ----


def refusal(root: Path, **settings) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        make(root, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_an_empty_and_a_wrong_folder_are_named(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    assert refusal(tmp_path / "images").endswith("images holds no images")
    (tmp_path / "images" / "notes.txt").write_text("x")
    assert "holds no images (saw 1 .txt)" in refusal(tmp_path / "images")
    assert "is a file, not a folder" in refusal(tmp_path / "images" / "notes.txt")


def test_one_image_is_too_few(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    assert "give at least 2" in refusal(tmp_path / "images")


@pytest.mark.parametrize("content", ["nothing", "text"])
def test_a_class_folder_without_images_is_named(root: Path, content: str) -> None:
    (root / "empty").mkdir()
    if content == "text":
        (root / "empty" / "readme.txt").write_text("x")
    assert "empty holds no images: remove it; data.labels=false reads" in refusal(root)
    assert make(root, labels=False).num_classes is None
    (root / ".hidden").mkdir()


def test_a_class_whose_images_are_all_broken_is_named(root: Path) -> None:
    (root / "worse").mkdir()
    (root / "worse" / "a.png").write_bytes(b"no image")
    assert "class folder" in refusal(root, max_bad_fraction=0.5) and "worse has no usable image" in refusal(root, max_bad_fraction=0.5)


def test_images_beside_class_folders_are_named(root: Path) -> None:
    picture(root / "stray.png")
    assert "holds images beside its class folders (stray.png): move or remove them" in refusal(root)


def test_parts_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / "images" / part / "cat" / "a.png")
    assert "holds the parts train, val: is data.root=" in refusal(tmp_path / "images")


def test_broken_images_are_counted_and_too_many_refused(root: Path, truncate, capsys) -> None:
    truncate(root / "cat" / "04.png")
    dm = make(root, max_bad_fraction=0.1)
    told = capsys.readouterr().out
    assert "(images in 3 class folders): 29 of 30 images usable; 1 truncated; list:" in told
    assert "cat/04.png" in dm.manifest.bad_list.read_text()
    assert "1 of 30 images cannot be used (1 truncated), more than data.max_bad_fraction=0.01" in refusal(root)


def test_verdicts_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root)
    monkeypatch.setattr("datamodules.manifest.verify", lambda path: pytest.fail(f"decoded {path} again"))
    make(root)


@pytest.mark.filterwarnings("ignore:.*has gone bad")
def test_a_file_that_goes_bad_is_replaced_together_with_its_label(root: Path, truncate) -> None:
    dm = make(root, cache_in_memory=False)
    truncate(root / dm.train_dataset.samples[2].file)
    for seed in range(6):
        item = dm.train_dataset[2, seed]
        others = [i for i in range(len(dm.train_dataset)) if i != 2]
        same = [i for i in others if torch.equal(dm.train_dataset[i, 0]["image"], item["image"])]
        assert [dm.train_dataset[i, 0]["label"] for i in same] == [item["label"]]


def test_links_out_of_the_folder_are_refused(root: Path) -> None:
    outside = root.parent / "private"
    picture(outside / "a.png")
    (root / "cat" / "link.png").symlink_to(outside / "a.png")
    assert "1 of 31 images cannot be used (1 outside_root)" in refusal(root)
    assert make(root, allow_outside=True).manifest.total == 31
    (root / "cat" / "link.png").unlink()
    (root / "fox").symlink_to(outside)
    assert "fox holds no images: it is a link to a folder out of data.root; data.allow_outside=true takes it" in refusal(root)
    assert make(root, allow_outside=True).num_classes == 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_what_is_no_file_is_no_image_and_never_waited_for(root: Path, kind: str) -> None:
    special(root / "cat" / "x.png", kind)
    manifest = make(root, max_bad_fraction=0.5, allow_outside=True).manifest
    (bad,) = manifest.bad
    assert bad.file == "cat/x.png" and bad.reason == ("missing" if kind == "nothing" else "unreadable")


def test_pictures_too_large_are_not_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.decode.MAX_PIXELS", 12 * 15)
    Image.new("RGB", (20, 20)).save(root / "cat" / "bomb.png")
    assert [bad.reason for bad in make(root, max_bad_fraction=0.5).manifest.bad] == ["too_large"]


@pytest.mark.parametrize("name", [b"new\nline", b"\x1b[2Jred", b"no \xff utf-8", b"-rf", b"x" * 240, b" "])
def test_strange_names_of_classes_are_read_and_printed_without_harm(root: Path, name: bytes, capfd) -> None:
    folder = os.path.join(os.fsencode(root), name)
    os.mkdir(folder)
    os.link(root / "cat" / "04.png", os.path.join(folder, b"a.png"))
    dm = make(root)
    told = "".join(capfd.readouterr())
    assert dm.num_classes == 4 and os.fsdecode(name) in dm.class_names and len(dm.fingerprint()) == 32
    assert "\x1b" not in told and "\udcff" not in told and told.count("\n") == 2


def test_read_images_gives_samples_in_the_order_of_their_names(root: Path) -> None:
    source, classes = read_images(root)
    names = [sample.file for sample in source.samples]
    assert names == sorted(names) and classes == ("Dog 2", "bird", "cat") and not source.captioned


def test_images_without_captions_list_none(root: Path) -> None:
    with pytest.raises(ValueError, match="ImagesDataModule has no list of captions"):
        make(root).captions()
