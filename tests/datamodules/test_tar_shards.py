"""Tar shards as data: the same pictures as from a folder, whoever reads them, and damage under way is replaced."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import tar_shards
from datamodules.base import to_model_range
from datamodules.decode import load_square
from datamodules.tar_index import ROW
from datamodules.tar_shards import ShardsDataModule
from tests.datamodules.tars import picture, samples, tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of twenty samples."""
    for i in range(3):
        tar(tmp_path / "in" / f"{i}.tar", samples(range(20 * i, 20 * i + 20)))
    return tmp_path / "in"


def make(root: Path, **arguments) -> ShardsDataModule:
    arguments = {"image_size": 8, "batch_size": 6, "val_fraction": 0.2, "cache_dir": str(root.parent / "cache"), **arguments}
    data = ShardsDataModule(str(root), **arguments)
    data.setup()
    return data


def number_of(item: dict) -> int:
    return int(item["caption"].split()[1])


def test_images_keep_their_captions_and_parts_share_none(shards: Path) -> None:
    data, numbers = make(shards), []
    for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
        items = [dataset[index, 5] for index in range(len(dataset))]
        numbers += map(number_of, items)
        for item in items:
            assert torch.equal(item["image"], to_model_range(load_square(picture(number_of(item), "jpg"), 8))) and item["seed"] == 5
    assert sorted(numbers) == list(range(60)) and [len(data.val_dataset), len(data.test_dataset)] == [12, 12]


def test_captions_in_json_are_chosen_by_the_seed(tmp_path: Path) -> None:
    members = [m for n in range(6) for m in ((f"{n}.png", picture(n)), (f"{n}.json", b'{"captions": ["one   way", "another"]}'))]
    data = make(tar(tmp_path / "in" / "0.tar", members).parent, val_fraction=1 / 3)
    assert {data.train_dataset[0, seed]["caption"] for seed in range(20)} == {"one way", "another"}


@pytest.mark.parametrize("mixed", [None, 1])
def test_workers_and_a_new_start_leave_no_trace(shards: Path, mixed: int | None) -> None:
    found = []
    for num_workers, start in ((0, 0), (2, 0), (0, 4)):
        data = make(shards, num_workers=num_workers, mixed_shards=mixed)
        data.num_batches, data.start_batch, data.run_seed = 9, start, 3
        batches = list(data.train_dataloader())
        found.append([(batch["caption"], batch["seed"].tolist(), batch["image"].sum().item()) for batch in batches])
    assert found[0] == found[1] and found[0][4:] == found[2]
    first_pass = [caption for captions, *_ in found[0][:6] for caption in captions]
    assert len(set(first_pass)) == 36 == len(data.train_dataset), "every image once"
    in_turns = [int(caption.split()[1]) // 20 for caption in first_pass]
    assert (len(set(in_turns[:12])) == 1) == (mixed == 1), "one shard after the other, or all mixed"


def test_mirroring_is_for_training_alone(shards: Path) -> None:
    data = make(shards, random_flip=True)
    assert data.train_dataset.random_flip and not data.val_dataset.random_flip and not data.test_dataset.random_flip
    assert not make(shards).train_dataset.random_flip


def test_an_image_that_cannot_be_decoded_is_named_and_replaced(tmp_path: Path) -> None:
    bad = [("7.jpg", b"<html>"), ("7.txt", b"number 7")]
    data = make(tar(tmp_path / "in" / "0.tar", [*samples(range(7)), *bad, *samples(range(8, 30))]).parent)
    for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
        index = next((i for i in range(len(dataset)) if dataset.part.find(i) == (0, 7)), None)
        if index is not None:
            with pytest.warns(UserWarning, match=r"0.tar, sample 7 cannot be used \(not_an_image\); another sample takes its place"):
                assert number_of(dataset[index, 1]) != 7


@pytest.mark.parametrize(("spoil", "reason"), [
    (lambda path: path.unlink(), "missing"), (lambda path: os.truncate(path, 600), "truncated"), (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "not_an_image"),
])  # fmt: skip
def test_a_shard_that_goes_bad_under_way_is_told(spoil, reason: str, shards: Path) -> None:
    data = make(shards, max_bad_fraction=0.1)
    spoil(shards / "1.tar")
    in_it = [i for i in range(len(data.train_dataset)) if data.train_dataset.part.find(i)[0] == 1]
    with pytest.warns(UserWarning, match=rf"1.tar, sample \d+ cannot be used \({reason}"):
        assert number_of(data.train_dataset[in_it[2], 3]) // 20 != 1
    with pytest.raises(RuntimeError, match=r"\d+ images cannot be used, more than data.max_bad_fraction allows; the last one: .*1.tar, sample"), pytest.warns(UserWarning):
        [data.train_dataset[i, 0] for i in in_it for _ in range(2)]


def test_an_image_that_is_cut_off_is_told_with_the_byte(shards: Path) -> None:
    data = make(shards)
    number, row = data.train_dataset.part.find(3)
    place = np.fromfile(data.index.table(data.index.shards[number]), ROW)[row]
    os.truncate(shards / data.index.shards[number].name, int(place["image_at"]) + 20)
    with pytest.warns(UserWarning, match=f"truncated: the shard ends before byte {place['image_at'] + place['image_bytes']:,}"):
        data.train_dataset[3, 0]


@pytest.mark.filterwarnings("ignore:.*cannot be used")
def test_a_caption_that_has_gone_is_told(shards: Path) -> None:
    data = make(shards)
    content = (shards / "1.tar").read_bytes()
    (shards / "1.tar").write_bytes(content.replace(b"number", b" " * 6).replace(b"2", b" ").replace(b"3", b" "))
    index = next(i for i in range(len(data.train_dataset)) if data.train_dataset.part.find(i)[0] == 1)
    number, row = data.train_dataset.part.find(index)
    place = np.fromfile(data.index.table(data.index.shards[number]), ROW)[row]
    (shards / "1.tar").write_bytes(content[: place["text_at"]] + b" " * int(place["text_bytes"]) + content[place["text_at"] + place["text_bytes"] :])
    with pytest.warns(UserWarning, match=r"corrupt: its caption is not there any more"):
        data.train_dataset[index, 0]


def test_few_shards_are_open_at_a_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_shards, "_OPEN_SHARDS", 1)
    data = make(shards)
    opened, closed, really = [], [], {"open": os.open, "close": os.close}
    monkeypatch.setattr(tar_shards.os, "open", lambda path, flags: opened.append(really["open"](path, flags)) or opened[-1])
    monkeypatch.setattr(tar_shards.os, "close", lambda file: closed.append(file) or really["close"](file))
    numbers = [number_of(data.train_dataset[i, 0]) for i in (0, 30, 1, 31, 2)]
    assert [n // 20 for n in numbers] == [0, 2, 0, 2, 0] and len(data.train_dataset._open) == 1
    assert len(opened) == 10 and closed == opened[:-2], "a shard and its table"
    data.train_dataset.close()
    assert closed == opened and not data.train_dataset._open


def test_a_copy_in_another_process_opens_its_own_files(shards: Path) -> None:
    dataset = make(shards).train_dataset
    expected = dataset[3, 1]["caption"]
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._open and copy[3, 1]["caption"] == expected


def test_the_fingerprint_tells_data_apart(shards: Path, capsys: pytest.CaptureFixture) -> None:
    prints = [make(shards, **settings).fingerprint() for settings in (
        {}, {}, {"image_size": 4}, {"val_fraction": 0.25}, {"random_flip": True}, {"mixed_shards": 2}
    )]  # fmt: skip
    assert prints[0] == prints[1] and len(set(prints)) == 5
    assert capsys.readouterr().out.splitlines()[0] == f"{shards}: 3 shards, 60 captioned images"
    tar(shards / "1.tar", samples(range(100, 120)))
    assert make(shards).fingerprint() not in prints


def test_damage_is_told_by_name(shards: Path, capsys: pytest.CaptureFixture) -> None:
    os.truncate(shards / "2.tar", 5000)
    data = make(shards, max_bad_fraction=0.5)
    assert "damaged: 2.tar: at byte" in capsys.readouterr().out and len(data.train_dataset) == 24
    with pytest.raises(ValueError, match="1 of 3 shards are damaged"):
        make(shards)


@pytest.mark.parametrize(("settings", "message"), [
    ({"root": None}, "data.root is not set"), ({"val_fraction": 0.4}, "val_fraction must be above 0 and at most 1/3, got 0.4"), ({"val_fraction": 0}, "val_fraction"),
    ({"max_bad_fraction": 2}, "max_bad_fraction must lie between 0 and 1"), ({"mixed_shards": 0}, "mixed_shards must be null or a whole number"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardsDataModule(**{"root": "x", **settings})


def test_a_part_without_images_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "in" / "0.tar", samples(range(2)))
    with pytest.raises(ValueError, match="val_fraction=0.001 leaves no image for .* among 2: give a larger one, at most 1/3"):
        make(tmp_path / "in", val_fraction=0.001)


def test_captions_are_listed_without_looking_at_images(shards: Path) -> None:
    number, images = make(shards).captions()
    assert number == 60 and list(images) == [(f"number {i}",) for i in range(60)]
