"""GLIDE by the scripts: drawn from a prompt, guided by a CLIP that was trained for it, fine-tuned to fill holes, two processes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import sample
import train
from evaluate import main as evaluate
from tests.lightning_modules.test_glide import overrides
from tests.sessions import contents, run

TOWERS = ("tower.width=32", "tower.layers=1", "tower.heads=2", "tower.embed_dim=16",
          *(f"model.net.text.{s}" for s in ("width=32", "layers=1", "heads=2", "vocab_size=600")))  # fmt: skip


def clip_overrides(run: Path, *more: str) -> list[str]:
    return ["trainer=cpu", "trainer.precision=32-true", f"run_dir={run}", "logger.wandb=null", "callbacks.progress=null", "data.batch_size=8",
            "data.num_val=8", "trainer.max_steps=2", *TOWERS, *more]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    found = {name: folder / name for name in ("glide", "filling", "clip", "plain_clip")}
    train.main(overrides(found["glide"], "trainer.max_steps=2"))
    filling = ["experiment=glide_inpaint", *overrides(found["filling"], "trainer.max_steps=2", f"init={found['glide']}")[1:]]
    train.main(filling)
    train.main(["experiment=clip_noised", *clip_overrides(found["clip"])])
    train.main(["model=clip", "data.image_size=32", *clip_overrides(found["plain_clip"])])
    return found


def drawn(run: Path, out: Path, *more: str) -> list[dict]:
    return sample.main([f"ckpt={run}", f"out={out}", "prompt=a red circle", "num_steps=3", "device=cpu", *more])


def test_a_clip_guides_and_the_lines_name_it(runs: dict[str, Path], tmp_path: Path) -> None:
    alone = drawn(runs["glide"], tmp_path / "alone", "n=2")
    guided = drawn(runs["glide"], tmp_path / "guided", "n=2", f"guide_clip={runs['clip']}", "options.clip_scale=20")
    off = drawn(runs["glide"], tmp_path / "off", "n=2", f"guide_clip={runs['clip']}", "options.clip_scale=0")
    (weights,) = (runs["clip"] / "checkpoints").glob("step=*.ckpt")
    assert "guide_clip" not in alone[0] and guided[0]["guide_clip"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    images = [(tmp_path / name / "00001.png").read_bytes() for name in ("alone", "guided", "off")]
    assert images[0] == images[2] != images[1] and guided[0]["clip_scale"] == 20
    for more, line in (
        ([f"guide_clip={runs['plain_clip']}"], "guide_clip=.*this CLIP was trained on clean images"),
        ([f"guide_clip={runs['glide']}"], "guide_clip=.*Glide is no CLIP"),
        (["guide_clip=nowhere"], "guide_clip=nowhere: no such file"),
        (["options.clip_scale=2"], "clip_scale=2 is of guidance by a CLIP"),
        ([f"guide_clip={runs['clip']}", "task=film"], "guide_clip=.*guides task=sample and task=inpaint"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=line):
            drawn(runs["glide"], tmp_path / "x", *more)
    assert not (tmp_path / "x").exists()


def test_an_evaluation_is_guided_by_it_and_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    (found,) = evaluate([
        f"ckpt={runs['glide']}", f"out={out}", f"guide_clip={runs['clip']}", "n=4", "device=cpu", "batch_size=4", "num_steps=2", "splits=[iid]",
        "evaluator.fd=null",
    ])  # fmt: skip
    assert found["facts"]["guided by the CLIP"].startswith(str(runs["clip"]))
    (protocol,) = [json.loads(path.read_text()) for path in out.glob("samples/*/protocol.json")]
    assert len(protocol["guide_clip"]) == 64 and protocol["model"]["clip_scale"] == 1.0


@pytest.mark.parametrize("name", ["glide", "filling"])
def test_holes_are_filled_around_known_pixels(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 40)).save(tmp_path / "image.png")
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (16, 16, 48, 48))
    mask.save(tmp_path / "mask.png")
    lines = drawn(runs[name], tmp_path / "out", "task=inpaint", f"image={tmp_path / 'image.png'}", f"mask={tmp_path / 'mask.png'}", "n=2")
    assert [line["task"] for line in lines] == ["inpaint"] * 2
    picture = Image.open(tmp_path / "out" / "00000.png").convert("RGB")
    assert picture.getpixel((3, 3)) == picture.getpixel((60, 30)) == (200, 30, 40) != picture.getpixel((32, 32))


def test_fine_tuning_starts_as_the_model_that_it_came_from(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train.main(["experiment=glide_inpaint", *overrides(tmp_path / "run", "trainer.max_steps=1", f"init={runs['glide']}")[1:]])
    assert "2 of them with new input channels, which start at zero" in capsys.readouterr().out
    with pytest.raises(ValueError, match="init=.*stem.weight.*build the same nets, or convolutions with more input channels"):
        train.main(overrides(tmp_path / "narrow", "trainer.max_steps=1", f"init={runs['filling']}"))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    log, batch = tmp_path / "log", "data.batch_size=12"  # of which the upsampler's third is whole on one process and on two
    for name, more in (("one", ()), ("two", ("trainer.devices=2", "trainer.strategy=ddp_fork"))):
        assert run(overrides(tmp_path / name, batch, "trainer.max_steps=2", *more), log) == 0, log.read_text()
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-5, msg=name)
