"""sample.py: files, seeds, batch sizes and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sample import columns, main
from tests.toy import overrides
from train import main as train


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "run"
    train(overrides("trainer.max_steps=4", run=path))
    return path


def pixels(folder: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(folder.glob("0*.png"))]


def test_one_prompt_many_images(trained: Path, tmp_path: Path, capsys) -> None:
    main([f"ckpt={trained}", 'prompt="a red circle"', "n=5", "seed=7", f"out={tmp_path}", "guidance_scale=2"])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(5)), "grid.png", "samples.jsonl"]
    lines = [json.loads(text) for text in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert lines[3].items() >= {"file": "00003.png", "prompt": "a red circle", "seed": 10, "guidance_scale": 2, "step": 4, "weights": "ema"}.items()
    assert lines[3]["checkpoint"].endswith("step=00000004.ckpt") and len(lines[3]["sha256"]) == 64
    assert None not in lines[3].values() and lines[3]["precision"] == "float32"
    out = capsys.readouterr().out
    assert "step 4, ema weights, 5 images on cpu" in out and "5/5 images" in out
    assert len(set(pixels(tmp_path))) == 5


def test_batch_size_and_start_do_not_change_an_image(trained: Path, tmp_path: Path) -> None:
    common = [f"ckpt={trained}", "prompt=x"]
    main([*common, "n=6", "seed=3", f"out={tmp_path / 'a'}"])
    main([*common, "n=6", "seed=3", "batch_size=4", f"out={tmp_path / 'b'}"])
    main([*common, "n=2", "seed=7", f"out={tmp_path / 'c'}"])
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")
    assert pixels(tmp_path / "a")[4:] == pixels(tmp_path / "c")


def test_prompts_from_a_file(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo words\n")
    lines = main([f"ckpt={trained}", f"prompts={tmp_path / 'prompts.txt'}", "n=2", f"out={tmp_path / 'out'}"])
    assert [line["prompt"] for line in lines] == ["one", "one", "two words", "two words"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompt=a b c d e f"], "has 6 words, the encoder reads 5"),
        ([], 'this model takes prompt="…" or prompts=FILE'),
        (["label=3"], "not label="),
        (["label=sneaker"], "label=sneaker: give a class number, for instance label=7"),
        (["prompt=x", "prompts=y"], "give only one of prompt, prompts"),
        (["prompts=nowhere.txt"], "prompts=nowhere.txt: no such file"),
        (["prompt=x", "n=0"], "n=0: give a whole number"),
        (["prompt=x", "sampler=dddim"], "Did you mean sampler=ddim?"),
        (["promt=x"], "Did you mean prompt=x?"),
    ],
)
def test_refusals(trained: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        main([f"ckpt={trained}", f"out={tmp_path / 'out'}", *arguments])
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_missing_checkpoint() -> None:
    with pytest.raises(ValueError, match="give ckpt="):
        main(["prompt=x"])
    with pytest.raises(FileNotFoundError, match="ckpt=nowhere: no such file, run or name in zoo/"):
        main(["ckpt=nowhere", "prompt=x"])


def test_out_may_be_a_link_to_a_folder_and_no_link_in_it_is_followed(trained: Path, tmp_path: Path) -> None:
    """`out=` is the user's own word, and may lead to another disk; what lies in the folder may be somebody else's."""
    folder, victim = tmp_path / "folder", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("as it was")
    (tmp_path / "out").symlink_to(folder)
    for name in ("00000.png", "grid.png", "samples.jsonl"):
        (folder / name).symlink_to(victim)
    main([f"ckpt={trained}", "prompt=x", "n=1", f"out={tmp_path / 'out'}"])
    assert victim.read_text() == "as it was"
    assert sorted(p.name for p in folder.iterdir() if p.is_file() and not p.is_symlink()) == ["00000.png", "grid.png", "samples.jsonl"]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([0, 1, 2, 0, 1, 2, 0], 3),  # a column a class
        ([0, 1, 2, 0], None),  # no class is there twice
        ([7, 7, 7, 7], None),
        (["a", "a", "b", "b"], None),
        ([None] * 4, None),
    ],
)
def test_classes_in_turns_stand_in_columns(shown: list, expected: int | None) -> None:
    assert columns(shown) == expected
