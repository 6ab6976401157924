"""Emoji as data: what is held out, that no picture is on both sides, captions by language, and broken drawings."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch

from datamodules.decode import load_square
from datamodules.emoji import EmojiDataModule
from datamodules.emoji_names import TONES, drawings_folder
from evaluation.metrics.prompt_set import load_prompts

FRANCE, CLIPPERTON = "1f1eb-1f1f7.png", "1f1e8-1f1f5.png"  # one flag
SPLITS = ("train", "iid", "combo")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> EmojiDataModule:
    """All drawings of the package."""
    dm = EmojiDataModule(image_size=16, batch_size=8, cache_dir=str(tmp_path_factory.mktemp("cache")))
    dm.setup()
    return dm


@pytest.fixture
def few(tmp_path: Path, monkeypatch) -> Path:
    """A folder of some 120 drawings: firefighters, police officers, hands, clocks, flags, and three without a name."""
    source, folder = drawings_folder(), tmp_path / "drawings"
    folder.mkdir()
    files = [FRANCE, CLIPPERTON, "1f1e8-1f1ed.png", "1f1e6.png", "e50a.png", "1f1e7.png"]
    for pattern in ("1f46*-1f692.png", "1f9d1*-1f692.png", "1f46e*.png", "1f44*.png", "1f55*.png"):
        files += [path.name for path in source.glob(pattern)]
    files += [path.name for person in ("1f469", "1f468") for path in source.glob(f"{person}*-1f692.png")]
    for file in files:
        shutil.copy(source / file, folder / file)
    monkeypatch.setattr("datamodules.emoji.drawings_folder", lambda: folder)
    return folder


def make(tmp_path: Path, **arguments) -> EmojiDataModule:
    given = {"image_size": 16, "batch_size": 4, "cache_dir": str(tmp_path / "cache"), "val_fraction": 0.3, **arguments}
    dm = EmojiDataModule(**given)
    dm.setup()
    return dm


def files(dm: EmojiDataModule, split: str) -> set[str]:
    return {sample.file for sample in getattr(dm, f"{split}_dataset").samples}


def test_a_batch_has_the_types_of_the_contract(whole: EmojiDataModule) -> None:
    batch = next(iter(whole.train_dataloader()))
    assert batch["image"].shape == (8, 3, 16, 16) and batch["image"].dtype == torch.uint8 and batch["seed"].dtype == torch.int64
    assert batch["image"].min() < 128 < batch["image"].max() == 255
    assert len(batch["caption"]) == 8 and all(isinstance(text, str) and text for text in batch["caption"])
    assert whole.captioned and whole.num_classes is None and whole.channels == 3


def test_what_is_transparent_is_white_and_drawings_keep_their_captions(whole: EmojiDataModule) -> None:
    index = next(i for i, sample in enumerate(whole.train_dataset.samples) if sample.file == "1f34e.png")
    item = whole.train_dataset[index, 0]
    assert item["caption"] in ("red apple", "apple") and (item["image"][:, 0, 0] == 1).all()
    red, green, blue = item["image"][:, 8, 8]
    assert red > 0.5 and green < 0 and blue < 0
    texts = {whole.train_dataset[index, seed]["caption"] for seed in range(20)}
    assert texts == {"red apple", "apple"}


def test_the_parts_share_no_drawing_and_no_picture(whole: EmojiDataModule) -> None:
    pictures = {}
    for split in SPLITS:
        samples = getattr(whole, f"{split}_dataset").samples
        found = [load_square(whole.root / sample.file, 72).tobytes() for sample in samples]
        assert len(set(found)) == len(found) > 150
        pictures[split] = set(found)
    assert all(pictures[a].isdisjoint(pictures[b]) for a, b in combinations(SPLITS, 2))
    assert sum(map(len, pictures.values())) == len(whole.manifest.samples) > 3900
    assert len(pictures["train"]) > 0.85 * len(whole.manifest.samples)


def test_held_out_combinations_are_new_and_their_words_are_not(whole: EmojiDataModule) -> None:
    known = {word for sample in whole.train_dataset.samples for word in sample.captions[0].split()}
    trained = {sample.captions[0] for sample in whole.train_dataset.samples}
    unseen = [sample.captions[0] for sample in whole.combo_dataset.samples]
    assert trained.isdisjoint(unseen) and all("skin tone" in text for text in unseen)
    assert all(word in known for text in unseen for word in text.split())
    by_role = [sample.file for sample in whole.combo_dataset.samples if sample.file.endswith("-1f692.png")]
    assert len(by_role) == 3 and len({file.split("-")[0] for file in by_role}) == 3
    assert len({tone for file in by_role for tone in TONES if tone in file}) == 3


def test_iid_holds_drawings_of_known_words_outside_the_grid(whole: EmojiDataModule) -> None:
    known = set().union(*(whole.words[file] for file in files(whole, "train")))
    assert all(whole.words[file] <= known for file in files(whole, "iid"))
    grid = [file for file in files(whole, "iid") if file.endswith(("-1f692.png", "-1f3a8.png")) or file.startswith("1f46e")]
    assert not grid and len(files(whole, "iid")) > 150
    assert any(file.startswith("1f44d-") for split in ("train", "iid") for file in files(whole, split))


def test_validation_looks_at_the_splits_it_is_told(few: Path, tmp_path: Path) -> None:
    iid, combo, both = (make(tmp_path, val_splits=splits) for splits in (["iid"], ["combo"], ["combo", "iid", "combo"]))
    assert files(iid, "val") == files(iid, "iid") == files(iid, "test") and files(combo, "val") == files(iid, "combo")
    assert [s.file for s in both.val_dataset.samples] == [s.file for s in iid.combo_dataset.samples + iid.iid_dataset.samples]
    assert files(iid, "train") == files(both, "train") and iid.fingerprint() == both.fingerprint()


def test_the_split_is_fixed_by_seed_and_name(few: Path, tmp_path: Path) -> None:
    first, again, french, other = (make(tmp_path, **change) for change in ({}, {}, {"language": "fr"}, {"data_seed": 1}))
    for split in SPLITS:
        assert files(first, split) == files(again, split) == files(french, split) != files(other, split)
    (few / "1f550.png").unlink()
    fewer = make(tmp_path)
    assert all(files(fewer, split) == files(first, split) - {"1f550.png"} for split in SPLITS)


def test_one_of_equal_pictures_stays_and_what_is_left_out_is_told(few: Path, tmp_path: Path, capsys) -> None:
    dm = make(tmp_path)
    there = set().union(*(files(dm, split) for split in SPLITS))
    assert FRANCE in there and CLIPPERTON not in there and "e50a.png" not in there
    assert "emoji, captions in en; left out: 1 with the picture of another and 3 without a name" in capsys.readouterr().out


def test_a_broken_drawing_is_counted_and_left_out(few: Path, tmp_path: Path, truncate, capsys) -> None:
    first = make(tmp_path)
    lost = "1f44a.png"
    truncate(few / lost)
    with pytest.raises(ValueError, match="more than data.max_bad_fraction=0.001"):
        make(tmp_path, max_bad_fraction=0.001)
    capsys.readouterr()
    dm = make(tmp_path, max_bad_fraction=0.05)
    assert "1 truncated" in capsys.readouterr().out
    for split in SPLITS:
        assert files(dm, split) == files(first, split) - {lost}


def test_captions_are_of_the_language(few: Path, tmp_path: Path) -> None:
    french = make(tmp_path, language="fr")
    texts = {sample.file: sample.captions for split in SPLITS for sample in getattr(french, f"{split}_dataset").samples}
    assert texts["1f469-200d-1f692.png"] == ("pompier femme",) and texts[FRANCE] == ("drapeau france",)
    assert texts["1f550.png"] == ("une heure",)


def test_workers_and_resuming_leave_no_trace(few: Path, tmp_path: Path) -> None:
    batches = []
    for num_workers, start in ((0, 0), (2, 0), (2, 5)):
        dm = make(tmp_path, num_workers=num_workers)
        dm.num_batches, dm.run_seed, dm.start_batch = 9, 3, start
        batches.append(list(dm.train_dataloader()))
    plain, workers, resumed = batches
    assert len(plain) == 9 and len(resumed) == 4
    for other in (workers, plain[:5] + resumed):
        for a, b in zip(plain, other, strict=True):
            assert torch.equal(a["image"], b["image"]) and a["caption"] == b["caption"] and torch.equal(a["seed"], b["seed"])


def test_fingerprint_tells_data_apart(few: Path, tmp_path: Path) -> None:
    first = make(tmp_path).fingerprint()
    assert first == make(tmp_path, batch_size=2, num_workers=1).fingerprint()
    changes = {"image_size": 8}, {"val_fraction": 0.2}, {"language": "fr"}, {"data_seed": 1}
    assert len({first, *(make(tmp_path, **change).fingerprint() for change in changes)}) == 5


def test_an_evaluation_asks_for_either_split_by_name(few: Path, tmp_path: Path) -> None:
    dm = make(tmp_path)
    for split in ("iid", "combo", "test"):
        prompts = load_prompts(dm, split, 4)
        samples = getattr(dm, f"{split}_dataset").samples
        assert all(text in sample.captions for text, sample in zip(prompts.captions, samples)) and prompts.specs is None
    with pytest.raises(ValueError, match="no split 'nope'; there are train, val, test, iid, combo"):
        load_prompts(dm, "nope", 4)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"val_splits": []}, "data.val_splits is empty: name at least one split"),
        ({"val_splits": ["iid", "word"]}, "data.val_splits: there is no split 'word'; there are iid, combo"),
        ({"language": "xx"}, "data.language='xx': emoji have names in"),
        ({"val_fraction": 0}, "data.val_fraction must lie between 0 and 1"),
    ],
)
def test_wrong_arguments_are_named_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmojiDataModule(**arguments)


@pytest.mark.parametrize("fraction,part", [(1e-9, "iid"), (1 - 1e-9, "iid")])
def test_a_share_that_leaves_a_part_empty_is_told(few: Path, tmp_path: Path, fraction: float, part: str) -> None:
    with pytest.raises(ValueError, match=f"leaves none of the .* drawings for {part}: choose another"):
        make(tmp_path, val_fraction=fraction)
