"""Prompt sets: fixed, nested, with a disjoint reference."""

from __future__ import annotations

from contracts import Request
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from datamodules.scenes import ScenesDataModule
from evaluation.metrics.prompt_set import load_prompts, sample_seed


@pytest.fixture(scope="module")
def scenes() -> ScenesDataModule:
    return ScenesDataModule(preset="scenes", image_size=64)


def test_scene_prompts_are_nested_and_real_images_show_them(scenes) -> None:
    from evaluation.metrics.alignment import SceneAlignment

    few, many = load_prompts(scenes, "combo", 6), load_prompts(scenes, "combo", 12)
    assert few.captions == many.captions[:6] and torch.equal(few.real, many.real[:6])
    assert few.real.shape == few.reference.shape == (6, 3, 64, 64)
    evaluator = SceneAlignment()
    evaluator.update(many.real, many.real, many.captions, specs=many.specs)
    assert evaluator.compute()["all_correct"] == 1


def test_reference_is_disjoint(scenes) -> None:
    prompts = load_prompts(scenes, "iid", 8)
    assert not any(torch.equal(a, b) for a in prompts.real for b in prompts.reference)


class Numbers(torch.utils.data.Dataset):
    """Image i has level i / 100 and label i."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key):
        return {"image": torch.full((1, 4, 4), key[0] / 100), "label": key[0]}


def test_plain_data_takes_the_reference_from_the_same_split_or_from_training() -> None:
    data = SimpleNamespace(train_dataset=Numbers(50), val_dataset=None, test_dataset=Numbers(10))
    small, large = load_prompts(data, "test", 5), load_prompts(data, "test", 10)
    assert small.labels == [0, 1, 2, 3, 4] and small.captions is None and small.specs is None
    assert (small.reference_split, large.reference_split) == ("test", "train")
    assert len(small.reference) == 5 and len(large.reference) == 10
    assert load_prompts(data, "train", 50).reference is None
    assert len(load_prompts(data, "test", None)) == 10, "without a number, a small split is taken whole"
    with pytest.raises(ValueError, match="n=11 exceeds the 10 images"):
        load_prompts(data, "test", 11)
    with pytest.raises(ValueError, match="no split 'combo'; there are train, test"):
        load_prompts(data, "combo", 5)


def test_training_images_and_others_that_were_not_trained_on() -> None:
    data = SimpleNamespace(train_dataset=Numbers(50), val_dataset=Numbers(8), test_dataset=Numbers(12))
    prompts = load_prompts(data, "test", 4, ("train", "holdout"), train_images=10)
    assert prompts.train.shape == (10, 1, 4, 4) and prompts.train[:, 0, 0, 0].unique().numel() == 10
    assert prompts.holdout_split == "test" and not_in(prompts.holdout, prompts.real, prompts.reference)
    full = load_prompts(data, "test", 12, ("train", "holdout"))
    assert (full.reference_split, full.holdout_split, len(full.holdout), len(full.train)) == ("train", "val", 8, 50)
    data.val_dataset = None
    assert torch.equal((last := load_prompts(data, "test", 12, ("holdout",))).holdout, last.real)
    assert last.holdout_split == "test (the prompts' own)" and last.train is None
    own = load_prompts(data, "train", 50, ("train", "holdout"))
    assert own.holdout_split == "test" and own.reference is None
    assert load_prompts(data, "test", 4).train is None  # read only where an evaluator asks


def not_in(images: torch.Tensor, *others: torch.Tensor) -> bool:
    return not any(torch.equal(a, b) for other in others for a in images for b in other)


def test_data_drawn_afresh_has_no_training_images(scenes) -> None:
    prompts = load_prompts(scenes, "iid", 3, ("train", "holdout"))
    assert prompts.train is None and prompts.holdout is None


def test_a_family_is_asked_in_its_own_terms(scenes) -> None:
    prompts = load_prompts(scenes, "iid", 3)
    assert prompts.asked("text") is prompts and prompts.request([2, 0]).texts == [prompts.captions[2], prompts.captions[0]]
    assert (alone := prompts.asked("none")).specs is None and alone.request([1, 2]) == Request(2)
    labelled = replace(prompts, labels=[3, 1, 4]).asked("label")
    assert labelled.request([2, 0]) == Request(2, labels=[4, 3]) and labelled.captions is None
    with pytest.raises(ValueError, match="the model draws from labels, and split iid of its data has none"):
        prompts.asked("label")


def test_a_selection_keeps_what_belongs_together(scenes) -> None:
    prompts = replace(load_prompts(scenes, "iid", 4), likelihood={})
    part = prompts.select([3, 1])
    assert part.captions == [prompts.captions[3], prompts.captions[1]] and torch.equal(part.real[0], prompts.real[3])
    assert len(part.reference) == 2 and part.likelihood is None and part.labels is None


def test_sample_seeds_are_stable() -> None:
    assert sample_seed(0, "iid", 3) == sample_seed(0, "iid", 3)
    assert len({sample_seed(s, split, i) for s in (0, 1) for split in ("iid", "combo") for i in range(50)}) == 200
    seeds = [sample_seed(0, "iid", i) for i in range(100)]
    assert all(0 <= s < 2**63 for s in seeds) and max(seeds) > 2**60, "as many bits as keep a million images apart"


class Seen(Numbers):
    """Shows the sample seed that it was asked with, and remembers it."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.seeds: dict[int, list[int]] = {}

    def __getitem__(self, key):
        self.seeds.setdefault(key[0], []).append(key[1])
        return super().__getitem__(key)


def level(images: torch.Tensor) -> list[int]:
    """Which images of `Numbers` these are."""
    return [round((value / 127.5 - 1) * 100) for value in images[:, 0, 0, 0].tolist()]


def test_a_prompts_image_is_the_same_for_every_n() -> None:
    dataset = Seen(20)
    data = SimpleNamespace(train_dataset=Numbers(50), val_dataset=None, test_dataset=dataset)
    for n in (3, 7):
        load_prompts(data, "test", n)
    first = [seeds for index, seeds in dataset.seeds.items() if index < 3]
    assert all(len(seeds) == 2 and seeds[0] == seeds[1] for seeds in first) and len({s[0] for s in first}) == 3


def test_which_images_are_reference_training_and_held_out() -> None:
    data = SimpleNamespace(train_dataset=Numbers(80), val_dataset=Numbers(8), test_dataset=Numbers(30))
    prompts = load_prompts(data, "test", 10, ("train", "holdout"), train_images=4)
    assert level(prompts.real) == list(range(10)) and level(prompts.reference) == list(range(10, 20))
    assert level(prompts.holdout) == list(range(20, 30)) and level(prompts.train) == [0, 20, 40, 60]
    assert level(load_prompts(data, "test", 20).reference) == [i * 80 // 20 for i in range(20)]
    own = load_prompts(data, "train", 30, ("holdout",))
    assert own.reference_split == "train" and own.holdout_split == "test" and level(own.holdout) == list(range(30))


def test_held_out_images_are_never_training_images() -> None:
    data = SimpleNamespace(train_dataset=Numbers(80), val_dataset=None, test_dataset=None)
    assert load_prompts(data, "train", 10, ("holdout",)).holdout is None


def test_real_images_of_scenes_are_drawn_each_for_itself(scenes) -> None:
    from scenes.render import render

    found, pairs = load_prompts(scenes, "iid", 3), scenes.prompts("iid", 6)
    for i, image in enumerate([*found.real, *found.reference]):
        expected = render(pairs[i][1], sample_seed("real", "iid", i), 64)[0]
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_a_numbers_identity_holds_the_contents_that_it_rests_on(scenes) -> None:
    prompts = replace(load_prompts(scenes, "iid", 3), labels=[1, 2, 3])
    prompts = replace(prompts, train=prompts.real[:2], holdout=prompts.real[2:])
    everything = ("reference", "train", "holdout", "captions", "specs", "labels")
    whole = prompts.identity(everything)
    names = {"real_images", "reference_images", "train_images", "holdout_images", "captions", "specs", "labels"}
    assert set(whole) == names and set(prompts.identity()) == {"real_images"}
    assert set(prompts.identity(["train"])) == {"real_images", "train_images"}
    changed = {
        "real_images": {"real": prompts.real.flip(0)}, "reference_images": {"reference": prompts.real},
        "train_images": {"train": prompts.real}, "holdout_images": {"holdout": prompts.real},
        "captions": {"captions": ["a", "b", "c"]}, "specs": {"specs": prompts.specs[::-1]}, "labels": {"labels": [1, 2, 4]},
    }  # fmt: skip
    for name, change in changed.items():
        other = replace(prompts, **change).identity(everything)
        assert [key for key in whole if whole[key] != other[key]] == [name]
