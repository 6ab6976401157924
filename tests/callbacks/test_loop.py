"""What the callbacks do in a run: logs, validation, grids, stopping, saving."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from callbacks.progress import clock
from callbacks.stop import parse_time
from evaluation.pictures.captioned_grid import captioned_grid
from runtime.checkpoint import load_module
from tests.toy import ToyData, overrides
from train import main


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in (path / "metrics.jsonl").read_text().splitlines()]


def test_validation_is_the_mean_over_images_with_averaged_weights(tmp_path) -> None:
    main(overrides("trainer.max_steps=6", run=tmp_path))
    module, _, _ = load_module(tmp_path)
    data = ToyData()
    data.setup()
    total = 0.0
    with torch.no_grad():
        for batch in data.val_dataloader():
            total += module.losses(batch)["loss"].item() * len(batch["image"])
    assert lines(tmp_path)[-1]["val/loss"] == pytest.approx(total / 7, rel=1e-6)


def test_train_lines_are_means_over_whole_windows(tmp_path) -> None:
    for name, every in (("a", 1), ("b", 3)):
        more = ("trainer.max_steps=6", "trainer.accumulate=2", f"callbacks.metrics_log.every_steps={every}")
        main(overrides(*more, run=tmp_path / name))
    each, windows = ([l for l in lines(tmp_path / n) if "train/loss" in l] for n in ("a", "b"))
    assert [l["step"] for l in windows] == [3, 6] and [l["images"] for l in windows] == [48, 96]
    assert windows[1]["train/loss"] == pytest.approx(sum(l["train/loss"] for l in each[3:]) / 3)
    key = "train/grad_norm/model"  # one norm per optimiser step, not per batch
    assert windows[0][key] == pytest.approx(sum(l[key] for l in each[:3]) / 3)
    assert [l["train/lr"] for l in each[:3]] == pytest.approx([0.002, 0.004, 0.006])


def test_grids_come_in_time_and_at_the_end(tmp_path) -> None:
    main(overrides("trainer.max_steps=9", "callbacks.samples.every_steps=4", run=tmp_path))
    names = [p.name for p in sorted((tmp_path / "samples").iterdir())]
    assert names == ["step=00000004.png", "step=00000008.png", "step=00000009.png"]
    assert Image.open(tmp_path / "samples" / names[0]).size[0] > 2 * 100


def test_an_untrained_stage_does_not_stop_training(tmp_path, capsys) -> None:
    main(overrides("model.untrained=true", run=tmp_path))
    assert capsys.readouterr().out.count("no sample grid: stage 'toy' is not trained") == 1
    assert not (tmp_path / "samples").exists()


def test_time_ends_a_run_and_more_time_continues_it(tmp_path, capsys) -> None:
    more = ("model.sleep_sec=0.05", "trainer.max_steps=null", "trainer.max_time=00:00:00:01")
    metrics = main(overrides(*more, run=tmp_path))
    assert 2 <= metrics["step"] <= 20
    assert (tmp_path / f"checkpoints/step={metrics['step']:08d}.ckpt").exists()
    assert (tmp_path / f"samples/step={metrics['step']:08d}.png").exists()
    again = main([f"resume={tmp_path}", "trainer.max_time=00:00:00:02"])
    assert again["step"] > metrics["step"]
    assert "changed: trainer.max_time=00:00:00:01 -> 00:00:00:02" in capsys.readouterr().out


def test_saving_by_the_clock_does_not_change_the_result(tmp_path) -> None:
    for name, every in (("a", "null"), ("b", "0")):
        main(overrides(f"callbacks.checkpoint.every_sec={every}", "trainer.max_steps=7", run=tmp_path / name))
    a, b = (torch.load(tmp_path / n / "checkpoints/step=00000007.ckpt", weights_only=True) for n in "ab")
    assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()


def test_progress_lines_in_a_log(tmp_path, capsys) -> None:
    main([o for o in overrides(run=tmp_path) if o != "callbacks.progress=null"] + ["callbacks.progress.every_sec=0"])
    out = [l for l in capsys.readouterr().out.splitlines() if l.startswith("step ")]
    assert out[2].startswith("step 3/20  images 24  loss 0.") and "img/s" in out[2] and out[2].endswith("left")


@pytest.mark.parametrize(("text", "sec"), [("00:00:00:05", 5), ("01:02:03:04", 93784)])
def test_times(text: str, sec: int) -> None:
    assert parse_time(text) == sec


def test_wrong_times() -> None:
    with pytest.raises(ValueError, match="trainer.max_time='5 minutes': write days:hours:minutes:seconds"):
        parse_time("5 minutes")
    assert clock(3661) == "1:01:01"


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_pictures_stay_as_they_are(channels: int) -> None:
    images = torch.randint(0, 256, (5, channels, 16, 16), dtype=torch.uint8)
    grid = captioned_grid(images, ["a caption that is long enough to be wrapped"] * 5)
    cell = grid.crop((4, 4, 4 + 128, 4 + 128)).resize((16, 16), Image.Resampling.NEAREST)
    expected = images[0].expand(3, -1, -1).permute(1, 2, 0).numpy()
    assert (torch.tensor(list(cell.getdata())).view(16, 16, 3).numpy() == expected).all()
