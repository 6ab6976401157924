"""Captioned folders as data: pure items, keyed captions, flips off, and files that go bad under way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from datamodules.base import to_model_range
from datamodules.caption_sources import Sample
from datamodules.captions import CaptionsDataModule, split_by_name
from datamodules.decode import load_square
from evaluation.metrics.prompt_set import load_prompts


def make(root: Path, **arguments) -> CaptionsDataModule:
    arguments = {"image_size": 16, "batch_size": 4, "cache_dir": str(root.parent / "cache"), **arguments}
    dm = CaptionsDataModule(str(root), **arguments)
    dm.setup()
    return dm


def file_of(dm: CaptionsDataModule, index: int) -> Path:
    return dm.root / dm.train_dataset.samples[index].file


def test_batch_has_the_types_of_the_contract(folder: Path):
    dm = make(folder)
    batch = next(iter(dm.train_dataloader()))
    assert batch["image"].shape == (4, 3, 16, 16) and batch["image"].dtype == torch.uint8
    assert batch["image"].min() < 128 < batch["image"].max()
    assert all(isinstance(caption, str) for caption in batch["caption"]) and batch["seed"].dtype == torch.int64
    assert dm.captioned and dm.num_classes is None and dm.channels == 3


def test_images_keep_their_captions(folder: Path):
    dm = make(folder)
    for index in range(len(dm.train_dataset)):
        item, file = dm.train_dataset[index, 5], file_of(dm, index)
        assert item["caption"].split()[-1] == str(int(file.stem))
        assert torch.equal(item["image"], to_model_range(load_square(file, 16)))


def test_the_seed_chooses_among_the_captions(folder: Path):
    dataset = make(folder).train_dataset
    texts = [dataset[0, seed]["caption"] for seed in range(60)]
    assert texts == [dataset[0, seed]["caption"] for seed in range(60)]
    assert set(texts) == set(dataset.samples[0].captions) and 15 < texts.count(texts[0]) < 45


@pytest.mark.parametrize("keep", [True, False])
def test_workers_leave_no_trace(folder: Path, keep: bool):
    loaders = []
    for num_workers in (0, 2):
        dm = make(folder, num_workers=num_workers, cache_in_memory=keep)
        dm.num_batches = 9
        loaders.append(dm.train_dataloader())
    for a, b in zip(*loaders, strict=True):
        assert torch.equal(a["image"], b["image"]) and a["caption"] == b["caption"]


def test_images_are_kept_in_memory_where_they_fit(folder: Path):
    dm = make(folder)
    before = [dm.train_dataset[i, 0]["image"] for i in range(5)]
    shutil.rmtree(folder)
    assert all(torch.equal(dm.train_dataset[i, 0]["image"], before[i]) for i in range(5))


def test_images_are_not_kept_where_they_do_not_fit(folder: Path, monkeypatch):
    monkeypatch.setattr("datamodules.folder._AUTO_CACHE_BYTES", 24 * 16 * 16 * 3 - 1)
    dm = make(folder)
    dm.train_dataset[0, 0]
    assert not dm.train_dataset.keep and not dm.train_dataset._kept
    assert make(folder, cache_in_memory=True).train_dataset.keep


def test_the_summary_is_printed_once_and_damage_is_fatal(folder: Path, truncate, capsys):
    truncate(folder / "003.png")
    dm = make(folder, max_bad_fraction=0.05)
    dm.prepare_data()
    dm.setup("fit")
    dm.fingerprint()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "(metadata.jsonl): 23 of 24 images usable; 1 truncated; list:" in printed
    with pytest.raises(ValueError, match="more than data.max_bad_fraction=0.01"):
        make(folder)


def test_train_and_val_are_fixed_by_name(folder: Path):
    samples = [Sample(f"{i}.png", ("x",)) for i in range(2000)]
    train, val = split_by_name(samples, 0.1)
    assert sorted(train + val, key=samples.index) == samples and 150 < len(val) < 250
    fewer_train, fewer_val = split_by_name(samples[::2], 0.1)
    assert set(fewer_train) < set(train) and set(fewer_val) < set(val)


def test_test_images_are_their_own_where_some_are_held_out(folder: Path):
    same, apart = make(folder, val_fraction=0.3), make(folder, val_fraction=0.3, test_fraction=0.3)
    assert same.test_dataset is same.val_dataset
    parts = [{s.file for s in getattr(apart, f"{name}_dataset").samples} for name in ("train", "val", "test")]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == len(same.train_dataset) + len(same.val_dataset)
    assert parts[1] == {s.file for s in same.val_dataset.samples}, "holding out more for test moved the validation images"


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("num_samples", [2, 3])
def test_neither_part_is_empty(num_samples: int, fraction: float):
    samples = [Sample(f"{i}.png", ("x",)) for i in range(num_samples)]
    train, val = split_by_name(samples, fraction)
    assert train and val and len(train) + len(val) == num_samples


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="give at least 2"):
        split_by_name([Sample("a.png", ("x",))], 0.5)


def test_an_evaluation_gets_its_prompts_from_the_images(folder: Path):
    dm = make(folder, val_fraction=0.3)
    dm.setup()
    prompts = load_prompts(dm, "test", 3)
    assert prompts.captions == load_prompts(dm, "test", 3).captions and prompts.specs is None
    assert len(prompts.captions) == 3
    for caption, sample in zip(prompts.captions, dm.val_dataset.samples):
        assert caption in sample.captions


def test_fingerprint_tells_data_apart(folder: Path):
    first = make(folder).fingerprint()
    assert first == make(folder, batch_size=2, num_workers=1, cache_in_memory=False).fingerprint()
    changes = {"image_size": 8}, {"val_fraction": 0.3}, {"test_fraction": 0.3}, {"random_flip": True}
    others = [make(folder, **change).fingerprint() for change in changes]
    with open(folder / "metadata.jsonl", "a") as file:
        file.write(json.dumps({"file_name": "003.png", "text": "one more"}) + "\n")
    assert len({first, *others, make(folder).fingerprint()}) == 6


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"root": None}, "data.root is not set: give the folder"),
        ({"val_fraction": 0}, "data.val_fraction must lie between 0 and 1, got 0"),
        ({"max_bad_fraction": 2}, "data.max_bad_fraction must lie between 0 and 1, got 2"),
        ({"cache_in_memory": "yes"}, "data.cache_in_memory must be true, false or auto, got 'yes'"),
    ],
)
def test_wrong_arguments_are_named_at_once(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CaptionsDataModule(**{"root": "nowhere", **arguments})


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="data.root: there is no folder"):
        CaptionsDataModule(str(tmp_path / "nowhere")).prepare_data()


def test_captions_are_listed(folder: Path):
    number, images = make(folder).captions()
    assert number == 24 and list(images)[:2] == [("picture 0", "number 0"), ("picture 1", "number 1")]
