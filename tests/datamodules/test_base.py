"""The shared loaders: collation, endless training batches, unpadded validation shards, and no trace of the workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from datamodules import base as base_file
from datamodules.base import ImageDataModule, collate, to_model_range
from datamodules.sampler import EndlessBatchSampler
from rng.hashing import stable_hash


class Noise(Dataset):
    """Images that are a pure function of (index, seed)."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, key):
        index, seed = key
        image_u8 = np.random.default_rng([index, seed]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return {"image": to_model_range(image_u8), "caption": f"image {index}", "label": index % 3, "seed": seed}


class NoiseDataModule(ImageDataModule):
    def setup(self, stage=None):
        self.train_dataset, self.val_dataset, self.test_dataset = Noise(20), Noise(11), Noise(5)


def make(**arguments) -> NoiseDataModule:
    dm = NoiseDataModule(**{"image_size": 8, "batch_size": 4, **arguments})
    dm.setup()
    return dm


def test_model_range_is_exact():
    image_u8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = to_model_range(image_u8)
    assert image.shape == (1, 16, 16) and image.dtype == torch.float32
    assert torch.equal(image[0].flatten(), torch.arange(256, dtype=torch.float32) / 127.5 - 1)
    assert image.min() == -1 and image.max() == 1
    back = ((image + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back[0], torch.from_numpy(image_u8))


def test_model_range_puts_channels_first():
    image_u8 = np.zeros((4, 6, 3), np.uint8)
    image_u8[1, 2] = (255, 0, 51)
    image = to_model_range(image_u8[:, ::-1])  # a mirrored view, as a flip makes
    assert image.shape == (3, 4, 6)
    assert image[:, 1, 3].tolist() == pytest.approx([1, -1, -0.6])


def test_batch_has_the_types_of_the_contract():
    batch = next(iter(make().train_dataloader()))
    assert batch["image"].shape == (4, 3, 8, 8) and batch["image"].dtype == torch.float32
    assert batch["seed"].dtype == torch.int64 and batch["label"].dtype == torch.int64
    assert isinstance(batch["caption"], list) and isinstance(batch["caption"][0], str)


def test_collate_keeps_seeds_of_63_bits():
    assert collate([{"seed": 2**63 - 1}, {"seed": 0}])["seed"].tolist() == [2**63 - 1, 0]


def test_training_resumes_where_it_stopped():
    whole = make()
    whole.num_batches, whole.run_seed = 12, 3
    rest = make()
    rest.num_batches, rest.run_seed, rest.start_batch = 12, 3, 7
    expected, got = list(whole.train_dataloader())[7:], list(rest.train_dataloader())
    assert len(got) == 5
    assert all(torch.equal(a["image"], b["image"]) and a["caption"] == b["caption"] for a, b in zip(expected, got))


def test_workers_leave_no_trace():
    alone, helped = make(), make(num_workers=2)
    for dm in (alone, helped):
        dm.num_batches = 7
    pairs = list(zip(alone.train_dataloader(), helped.train_dataloader(), strict=True))
    assert len(pairs) == 7
    assert all(torch.equal(a["image"], b["image"]) and torch.equal(a["seed"], b["seed"]) for a, b in pairs)


def test_loaders_leave_the_global_random_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    dm = make()
    list(dm.train_dataloader()), list(dm.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_is_the_same_every_time_and_complete():
    dm = make()
    first, second = list(dm.val_dataloader()), list(dm.val_dataloader())
    assert [len(b["caption"]) for b in first] == [4, 4, 3]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second))
    dm.run_seed = 9
    assert torch.equal(next(iter(dm.val_dataloader()))["seed"], first[0]["seed"])


def test_validation_shards_are_not_padded(monkeypatch):
    seen = []
    for rank in range(4):
        monkeypatch.setattr(base_file, "rank_and_world", lambda rank=rank: (rank, 4))
        loader = make().val_dataloader()
        batches = list(loader)
        assert len(loader) == len(batches)
        seen += [caption for batch in batches for caption in batch["caption"]]
    assert sorted(seen) == sorted(f"image {i}" for i in range(11))


def test_a_rank_without_validation_samples_has_no_batches(monkeypatch):
    monkeypatch.setattr(base_file, "rank_and_world", lambda: (15, 16))
    assert list(make(batch_size=16).val_dataloader()) == []


@pytest.mark.parametrize(
    "name,value", [("image_size", 0), ("batch_size", -1), ("batch_size", 2.5), ("num_workers", -1)]
)
def test_bad_sizes_are_named(name, value):
    with pytest.raises(ValueError, match=f"data.{name} must be a whole number of at least ., got {value}"):
        make(**{name: value})


# ---- which sample, with which seed, on which rank ----


def test_validation_and_test_have_seeds_of_their_own_that_no_batch_size_changes():
    def keys(batch_size: int, tag: str) -> list[tuple[int, int]]:
        return [key for batch in base_file.ShardBatchSampler(7, batch_size, tag) for key in batch]

    assert keys(2, "val") == keys(3, "val") == [(i, stable_hash("val", i)) for i in range(7)]
    assert not set(keys(7, "val")) & set(keys(7, "test"))
    assert [len(base_file.ShardBatchSampler(7, size, "val")) for size in (1, 2, 3, 7, 8)] == [7, 4, 3, 1, 1]


def test_the_order_of_training_is_the_runs():
    def order(seed: int) -> list:
        data = make()
        data.run_seed = seed
        return list(data.train_dataloader().batch_sampler)

    assert order(1) == order(1) != order(2)
    assert order(1)[0] == EndlessBatchSampler(20, 4, 1, 1).share(0)


def test_processes_share_a_validation_batch(monkeypatch):
    data = make(batch_size=8)
    for world, size in ((1, 8), (2, 4), (3, 2), (20, 1)):
        monkeypatch.setattr(base_file, "rank_and_world", lambda world=world: (0, world))
        assert data._shards(data.val_dataset, "val").batch_size == size


def test_prompts_for_grids_are_different_captions_of_validation():
    dm = make(captioned=True)
    assert dm.example_prompts(3) == ["image 0", "image 1", "image 2"] and len(dm.example_prompts(20)) == 11
    dm.val_dataset = [{"caption": text} for text in ("a", "b", "a", "", "c")]

    class Twice(list):
        def __getitem__(self, key):
            return super().__getitem__(key[0])

    dm.val_dataset = Twice(dm.val_dataset)
    assert dm.example_prompts() == ["a", "b", "c"]
    dm.val_dataset = None
    assert dm.example_prompts(2) == ["image 0", "image 1"], "of training where there is no validation set"
    assert make().example_prompts() == []
