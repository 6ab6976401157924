"""Captioned scenes as data: pure, new pictures of the same spec on every pass, and splits that do not overlap."""

from __future__ import annotations

import pytest
import torch

from datamodules import scenes as scenes_file
from datamodules.scenes import ScenesDataModule, scene_spec
from scenes.grammar import SceneSpec, sample_spec
from scenes.splits import split_of


def make(preset="scenes_simple", **arguments) -> ScenesDataModule:
    dm = ScenesDataModule(preset, **{"image_size": 32, "batch_size": 8, "num_images": 40, "num_val": 12, **arguments})
    dm.setup()
    return dm


@pytest.mark.parametrize("preset,image_size", [("scenes_simple", 32), ("scenes", 64)])
def test_batch_has_the_types_of_the_contract(preset, image_size):
    dm = make(preset, image_size=image_size)
    batch = next(iter(dm.train_dataloader()))
    assert batch["image"].shape == (8, dm.channels, image_size, image_size) and batch["image"].dtype == torch.float32
    assert -1 <= batch["image"].min() < batch["image"].max() <= 1
    assert all(isinstance(c, str) and c for c in batch["caption"])
    assert batch["seed"].shape == (8,) and batch["seed"].dtype == torch.int64
    assert dm.captioned and dm.num_classes is None
    assert all(SceneSpec.from_dict(spec).to_dict() == spec for spec in batch["spec"])


def test_an_item_is_a_pure_function_of_its_key():
    a, b = make().train_dataset[3, 77], make().train_dataset[3, 77]
    assert torch.equal(a["image"], b["image"]) and a["caption"] == b["caption"] and a["spec"] == b["spec"]


def test_another_seed_draws_the_same_spec_anew():
    dataset = make().train_dataset
    items = [dataset[3, seed] for seed in range(6)]
    assert all(item["spec"] == items[0]["spec"] for item in items)
    assert not torch.equal(items[0]["image"], items[1]["image"])
    assert len({item["caption"] for item in items}) > 1


def test_size_changes_the_resolution_only():
    small, large = make().train_dataset[5, 1], make(image_size=64).train_dataset[5, 1]
    assert small["caption"] == large["caption"]
    halved = torch.nn.functional.avg_pool2d(large["image"], 2)
    assert (halved - small["image"]).abs().mean() < 0.03


def test_splits_hold_what_they_say():
    dm = make(val_splits=("iid", "combo"))
    train = {dm.train_dataset.spec(i).canonical() for i in range(40)}
    assert all(split_of(dm.train_dataset.spec(i)) == "train" for i in range(40))
    for dataset in (dm.val_dataset, dm.test_dataset):
        assert [split_of(dataset.spec(i)) for i in range(12)] == ["iid", "combo"] * 6
        assert not train & {dataset.spec(i).canonical() for i in range(12)}


def test_prompts_are_fixed_and_extend():
    dm = make()
    assert dm.prompts("combo", 8)[:3] == make().prompts("combo", 3)
    assert all(split_of(spec) == "combo" for _, spec in dm.prompts("combo", 8))
    assert dm.prompts("iid", 4) != dm.prompts("combo", 4)


def test_language_prompts_use_held_out_wording():
    dm = make()
    trained = {dm.train_dataset[i, i]["caption"] for i in range(40)} | {c for c, _ in dm.prompts("iid", 40)}
    assert not trained & {c for c, _ in dm.prompts("language", 40)}


def test_fingerprint_tells_data_apart():
    dm = make()
    others = [make(data_seed=1), make(num_images=41), make(image_size=64), make("scenes", image_size=64)]
    assert dm.fingerprint() == make(batch_size=4, num_workers=1).fingerprint()
    assert len({dm.fingerprint(), *(other.fingerprint() for other in others)}) == 5


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"preset": "scene"}, "unknown scenes preset 'scene'"),
        ({"image_size": 16}, "drawn at 32 to 256 pixels, got 16"),
        ({"preset": "scenes", "image_size": 32}, "drawn at 64 to 256 pixels, got 32"),
        ({"num_val": 0}, "at least 1, got 50000 and 0"),
        ({"val_splits": ("val",)}, "unknown split 'val'"),
        ({"val_splits": ()}, "data.val_splits is empty"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ScenesDataModule(**{"image_size": 64, "preset": "scenes_simple", **arguments})
    assert "\n" not in str(error.value)


def test_the_specs_of_a_split_are_counted_without_gaps():
    dm = make(val_splits=("iid", "combo", "word"))
    for index in range(12):
        split = ("iid", "combo", "word")[index % 3]
        assert dm.val_dataset.spec(index) == scene_spec("scenes_simple", split, "val", 0, index // 3)


def test_parts_and_data_seeds_have_specs_of_their_own():
    def specs(*key) -> list[str]:
        return [scene_spec("scenes", *key, i).canonical() for i in range(12)]

    found = [specs("iid", tag, seed) for tag in ("train", "val", "test", "prompts") for seed in (0, 1)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    assert specs("iid", "val", 0) == found[2]


def test_a_changed_grammar_changes_the_fingerprint(monkeypatch):
    before = make().fingerprint()
    monkeypatch.setattr(scenes_file, "sample_spec", lambda seed, *a, **k: sample_spec(seed + 1, *a, **k))
    assert make().fingerprint() != before


def test_some_training_images_show_random_strings_and_never_a_held_out_word():
    plain, spelling = make(num_images=600).train_dataset, make(num_images=600, spelling=0.25)
    specs = [spelling.train_dataset.spec(i) for i in range(600)]
    others = [i for i in range(600) if specs[i] == plain.spec(i)]
    strings = [specs[i] for i in range(600) if specs[i] != plain.spec(i)]
    assert 110 <= len(strings) <= 190 and len(others) + len(strings) == 600, "the other scenes stay as they were"
    assert all(s.kind == "word" and split_of(s) == "train" for s in strings)
    assert {len(s.word) for s in strings} == {1, 2, 3, 4} and len({s.word for s in strings}) > 100
    assert set("".join(s.word for s in strings)) == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert [spelling.val_dataset.spec(i) for i in range(12)] == [make().val_dataset.spec(i) for i in range(12)]
    assert spelling.fingerprint() != make(num_images=600).fingerprint() == make(num_images=600, spelling=0.0).fingerprint()
    with pytest.raises(ValueError, match="data.spelling=2: give a share from 0 to 1"):
        make(spelling=2)


def test_prompts_for_grids_ask_for_every_skill():
    prompts = make().example_prompts()
    assert len(prompts) == 8 and sum('"' in p for p in prompts) == 2 and any("three" in p for p in prompts) and any("left of" in p for p in prompts)
    assert make().example_prompts(3) == prompts[:3]


def test_captions_are_listed_where_they_have_an_end():
    dm = make()
    number, images = dm.captions()
    listed = {text for texts in images for text in texts}
    assert number == len(listed) and {dm.train_dataset[i, seed]["caption"] for i in range(40) for seed in range(5)} <= listed
    for endless in (make(spelling=0.5), make("scenes", image_size=64)):
        with pytest.raises(ValueError, match="has no list of captions"):
            endless.captions()
