"""evaluate.py on folders of images that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from evaluate import main
from evaluation.metrics.prompt_set import load_prompts
from evaluation.sample_store import write_png
from tests.toy import CONF

TOY = [f"hydra.searchpath=[file://{CONF}]", "evaluator=toy", "device=cpu"]


def fill(folder: Path, levels: list[int], size: tuple[int, int] = (8, 8)) -> Path:
    folder.mkdir()
    for i, level in enumerate(levels):
        Image.new("RGB", size, (level,) * 3).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Six images and twenty real ones."""
    theirs, real = fill(tmp_path / "theirs", [10, 20, 30, 40, 50, 60]), fill(tmp_path / "real", list(range(100, 120)))
    return [*TOY, f"images={theirs}", f"reference={real}", f"out={tmp_path / 'out'}"]


def test_numbers_cards_and_a_page(folders: list[str], tmp_path: Path) -> None:
    (result,) = main([*folders, "name=somebody"])
    split = result["splits"]["images"]
    assert result["name"] == "somebody" and result["cost"]["parameters"] is None and split["n"] == 6
    assert split["metrics"]["brightness"]["value"] == 35 and 105 < split["metrics"]["brightness"]["real"] < 115
    assert sorted(p.name for p in (tmp_path / "out" / split["samples"]).iterdir())[-1] == "00005.png"
    assert "somebody" in (tmp_path / "out" / "report.html").read_text()
    card = json.loads((tmp_path / "out" / "cards" / "images-brightness.json").read_text())
    assert card["sampling"]["resize"] == "none" and card["n_fake"] == 6


def test_everything_wrong_at_once_is_a_line_each(folders: list[str], tmp_path: Path, capsys) -> None:
    theirs = tmp_path / "theirs"
    Image.new("RGB", (8, 8), (70, 70, 70)).save(theirs / "006.jpg")
    Image.new("RGB", (16, 8), (80, 80, 80)).save(theirs / "007.png")
    (theirs / "008.png").write_text("broken")
    (tmp_path / "c.txt").write_text("one\ntwo\n\nfour\n")
    caption = ["+evaluator.text._target_=tests.judge.Brightness", "+evaluator.text.needs=[captions]"]
    more = [f"prompts={tmp_path / 'c.txt'}", "allow_lossy=true", "max_broken=0.2", "evaluator.brightness=null"]
    (result,) = main([*folders, *caption, *more])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    for text in (
        "1 of 9 files were left out (008.png: not an image)",
        "1 of 8 are compressed with losses (006.jpg)",
        "1 of 8 images had another size than 8 x 8: largest centre cut-out",
        "3 of 8 images have a caption: what needs one is measured on those",
    ):
        assert sum(text in line for line in said) == 1 and any(text in note for note in result["notes"]), text
    assert len(said) == 4
    row = result["splits"]["images"]["metrics"]["brightness"]
    assert row["value"] == pytest.approx((10 + 20 + 40) / 3) and row["n"] == 3 and "real" not in row


def test_two_disjoint_sets_of_real_images(folders: list[str], tmp_path: Path) -> None:
    fill(tmp_path / "few", [0, 50, 100, 150, 200])
    (result,) = main([*folders, f"reference={tmp_path / 'few'}"])
    assert result["splits"]["images"]["n"] == 2 and any("2 of 6 images are used" in note for note in result["notes"])
    with pytest.raises(ValueError, match="n=3 takes 3 images and 6 real ones, half of them for the floor; there are 6"):
        main([*folders, f"reference={tmp_path / 'few'}", "n=3"])


def test_images_that_answer_to_a_runs_data_share_the_column_of_its_model(tmp_path: Path) -> None:
    from datamodules.scenes import ScenesDataModule

    prompts = load_prompts(ScenesDataModule(preset="scenes_simple", image_size=64), "iid", 4)
    (tmp_path / "real").mkdir()
    for i in (0, 1, 3):
        write_png(tmp_path / "real" / f"{i}.png", prompts.real[i])
    (tmp_path / "real" / "2.png").write_text("broken")
    common = [TOY[0], "evaluator=scenes", "device=cpu", "max_broken=0.5", "reference=imagen-scenes"]
    (result,) = main([*common, f"images={tmp_path / 'real'}", f"out={tmp_path / 'out'}"])
    split = result["splits"]["iid"]
    assert split["captions"] == [prompts.captions[i] for i in (0, 1, 3)] and split["metrics"]["all_correct"]["value"] == 1
    (tmp_path / "c.txt").write_text("one\n")
    with pytest.raises(ValueError, match="prompts of its own"):
        main([*common, f"images={tmp_path / 'real'}", f"out={tmp_path / 'out'}", f"prompts={tmp_path / 'c.txt'}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["images=nowhere", "reference=nowhere"], "images=nowhere: no such folder"),
        (["images=theirs"], "images= needs reference=: a folder of real images"),
        (["images=empty", "reference=real"], "images=empty: no images in it"),
        (["images=theirs", "reference=nowhere"], "reference=nowhere: no such folder, run or name in zoo"),
        (["images=theirs", "reference=real", "ckpt=imagen-scenes"], "give one of ckpt=, images=, they are different"),
        (["images=theirs", "reference=real", "guidance_scale=2"], "guidance_scale= goes with ckpt="),
        (["images=theirs", "reference=real", "sweep.num_steps=[4]"], "sweep= goes with ckpt="),
        (["images=theirs", "reference=real", "prompts=nowhere.txt"], "prompts=nowhere.txt: no such file"),
        (["ckpt=imagen-scenes", "reference=real"], "reference= goes with images=, and means nothing to ckpt="),
        (["ckpt=[imagen-scenes,nowhere]"], "ckpt=nowhere: no such file, run or name in zoo"),
        (["ckpt=[imagen-scenes,imagen-scenes]", "name=x"], "name=x for 2 checkpoints"),
        (["ckpt=imagen-scenes", "sweep.sampler=[dimm]"], "Did you mean sampler=ddim"),
        (["ckpt=imagen-scenes", "precision=fp8"], "precision=fp8: give auto, float32 or bf16"),
        (["compare=theirs"], "compare=theirs: give a list"),
        (["compare=[theirs,real]"], "no evaluation in theirs"),
    ],
)
def test_mistakes(folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides, message) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        main([*TOY, *overrides])
    assert message in str(error.value) and "\n" not in str(error.value)
