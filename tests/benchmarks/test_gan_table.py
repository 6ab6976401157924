"""The table of games: trains what is not there, judges it by images nobody trained on, draws and fills the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import gan_table
from tests.datamodules.class_data import write_class_data


@pytest.mark.slow
def test_it_trains_judges_and_fills_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_data(tmp_path / "data", "fashion_mnist", num_train=60, num_test=24)
    page, picture = tmp_path / "gan.md", tmp_path / "gan.png"
    page.write_text("before\n<!-- gan_table -->\n<!-- /gan_table -->\nafter\n")
    monkeypatch.setattr(gan_table, "PAGE", page), monkeypatch.setattr(gan_table, "PICTURE", picture)
    small = ["players.generator.dims=[16,16,8]", "players.discriminator.dims=[8,16,16]", "data.num_val=10"]
    where = [f"data.root={tmp_path / 'data'}", "trainer=cpu", "data.batch_size=8", "callbacks.progress=null"]
    folder = ["--dir", str(tmp_path / "runs"), "--out", str(tmp_path / "table.json")]
    command = ["gan_table", "--minutes", "0.05", "--n", "24", "--players", "dcgan", *folder, *small, *where]
    monkeypatch.setattr(sys, "argv", command)
    gan_table.main()
    text = page.read_text()
    assert "| real images | " in text and "| dcgan " in text and text.startswith("before") and text.endswith("after\n")
    steps = (tmp_path / "runs" / "dcgan" / "metrics.jsonl").read_text()
    assert Image.open(picture).size[0] > Image.open(picture).size[1]
    gan_table.main()  # the run is there: nothing is trained again
    assert (tmp_path / "runs" / "dcgan" / "metrics.jsonl").read_text() == steps


def test_too_many_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan_table, "trained", lambda *_: "run")
    data = type("Data", (), {"setup": lambda *_: None, "test_dataset": range(5), "train_dataset": range(9)})()
    config = type("Config", (), {"data": None})()
    monkeypatch.setattr(gan_table, "load_module", lambda _: (None, config, {}))
    monkeypatch.setattr(gan_table, "instantiate_untrusted", lambda _: data)
    with pytest.raises(ValueError, match="--n 6: there are 5 images"):
        gan_table.benchmark(["dcgan"], 1.0, 6, tmp_path, [])
