"""Items of stored images: mirrored by their seed alone, and replaced where an image has gone bad."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from contracts import model_range
from tests.datamodules.test_captions import file_of, make


def test_nothing_is_mirrored_unless_asked(folder: Path):
    plain, mirrored = make(folder).train_dataset, make(folder, random_flip=True)
    upright = plain[0, 0]["image"]
    assert all(torch.equal(plain[0, seed]["image"], upright) for seed in range(10))
    flips = [torch.equal(mirrored.train_dataset[0, seed]["image"], upright.flip(-1)) for seed in range(40)]
    assert 8 < sum(flips) < 32
    assert not mirrored.val_dataset.random_flip


@pytest.mark.parametrize("settings", [{}, {"random_flip": True}, {"cache_in_memory": False}])
def test_batches_are_the_items_in_uint8(folder: Path, settings: dict):
    dm = make(folder, **settings)
    dm.num_batches = 6
    seen = 0
    for batch in dm.train_dataloader():
        image = batch["image"]
        assert image.dtype == torch.uint8 and image.is_contiguous()
        for i, seed in enumerate(batch["seed"].tolist()):
            items = [dm.train_dataset[index, seed] for index in range(len(dm.train_dataset))]
            assert any(item["caption"] == batch["caption"][i] and torch.equal(item["image"], model_range(image)[i]) for item in items)
            seen += 1
    assert seen == 6 * 4


def test_a_file_that_goes_bad_is_replaced_by_the_same_one_each_time(folder: Path, truncate):
    dm, again = make(folder, cache_in_memory=False), make(folder, cache_in_memory=False)
    truncate(file_of(dm, 2))
    with pytest.warns(UserWarning, match=r"has gone bad since it was checked \(truncated"):
        items = [dm.train_dataset[2, seed] for seed in range(8)]
    assert dm.train_dataset.bad_now == {2}
    assert len({item["caption"] for item in items}) > 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [again.train_dataset[2, seed]["caption"] for seed in range(8)] == [item["caption"] for item in items]
    assert items[3]["seed"] == 3


@pytest.mark.filterwarnings("ignore:.*has gone bad")
def test_too_many_files_going_bad_stop_the_run(folder: Path, truncate):
    dm = make(folder, cache_in_memory=False, max_bad_fraction=0.1)
    for index in range(4):
        truncate(file_of(dm, index))
    with pytest.raises(RuntimeError, match="3 images have gone bad since .*more than data.max_bad_fraction allows"):
        for index in range(4):
            dm.train_dataset[index, 0]


@pytest.mark.filterwarnings("ignore:.*has gone bad")
def test_a_vanished_disk_stops_the_run(folder: Path):
    dm = make(folder, cache_in_memory=False, max_bad_fraction=1.0)
    shutil.rmtree(folder)
    with pytest.raises(RuntimeError, match="10 images in a row could not be read; is .* still there"):
        dm.train_dataset[0, 0]
